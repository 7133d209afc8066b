"""A server with https of its own: clients trust its authority or refuse, cookies stay on https, bad files are told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from certificates import Authority, Certificate
from processes import ServerProcess

from service.client import AsyncClient, BadCertificatesError, Client, ServerUnreachableError, WrongSchemeError
from service.schemas import JobState
from service.server import CertificateError, _check_certificate
from service.settings import Settings
from worker.recording import Recording

TOKEN = "an-administrators-token-of-a-server-over-https"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder, signed = tmp_path_factory.mktemp("server"), authority.sign("server")
    given = {"admin_token": TOKEN, "tls_cert": signed.certificate, "tls_key": signed.key}
    with ServerProcess("server", folder, state_dir=folder / "state", **given).running() as server:
        yield server


@pytest.fixture(autouse=True)
def no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = [sys.executable, "-m", "service.cli.main", *words]
    return subprocess.run(given, capture_output=True, text=True, env=os.environ | environment, timeout=120)


def test_a_job_goes_its_way_over_https_for_who_trusts_the_authority(
    server: ServerProcess, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.url.startswith("https://")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    job = Recording.packaged().job
    with Client(server.url, token=TOKEN) as client:
        submitted = client.submit(job)
        assert [event.kind for event in submitted.events()][-1] == "job.ended"  # a stream
        assert client.wait(submitted.id).state is JobState.SUCCEEDED
    listed = command("list", "--server", server.url, FIXNORM_TOKEN=TOKEN)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert submitted.id in listed.stdout


def test_who_does_not_trust_it_is_told_how_to_and_sends_no_token(server: ServerProcess, authority: Authority) -> None:
    with Client(server.url, token=TOKEN) as client, pytest.raises(ServerUnreachableError) as raised:
        client.jobs()
    assert "CERTIFICATE_VERIFY_FAILED" in str(raised.value)
    assert "SSL_CERT_FILE" in raised.value.way_out
    refused = command("list", "--server", server.url, FIXNORM_TOKEN=TOKEN)
    assert refused.returncode != 0
    assert "SSL_CERT_FILE" in refused.stderr
    other_name = server.url.replace("127.0.0.1", "localhost")  # which the certificate does not have
    refused = command("list", "--server", other_name, FIXNORM_TOKEN=TOKEN, SSL_CERT_FILE=str(authority.certificate))
    assert refused.returncode != 0
    assert "certificate is not valid for 'localhost'" in refused.stderr
    with pytest.raises(httpx.TransportError):
        httpx.get(server.url.replace("https://", "http://"))


def test_who_names_the_wrong_scheme_is_told_the_other(
    server: ServerProcess, authority: Authority, tmp_path: Path
) -> None:
    trusting = {"SSL_CERT_FILE": str(authority.certificate), "FIXNORM_TOKEN": TOKEN}
    in_the_clear = server.url.replace("https://", "http://")
    refused = command("list", "--server", in_the_clear, **trusting)
    assert refused.returncode == 3
    assert f"Name it as {server.url}" in refused.stderr
    assert "Start one" not in refused.stderr
    assert f"Name it as {server.url}" in command("doctor", "--server", in_the_clear, **trusting).stdout
    with ServerProcess("plain", tmp_path, state_dir=tmp_path / "state").running() as plain:
        refused = command("list", "--server", plain.url.replace("http://", "https://"), **trusting)
        assert refused.returncode == 3
        assert f"Name it as {plain.url}" in refused.stderr


def test_the_asynchronous_client_tells_it_too(server: ServerProcess) -> None:
    async def ask() -> None:
        async with AsyncClient(server.url.replace("https://", "http://")) as client:
            await client.jobs()

    with pytest.raises(WrongSchemeError, match="speaks https"):
        asyncio.run(ask())


def test_authorities_that_cannot_be_read_are_named(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    with pytest.raises(BadCertificatesError, match=r"nothing\.pem: No such file"):
        Client(server.url)
    (tmp_path / "nothing.pem").write_text("no certificate")
    with pytest.raises(BadCertificatesError, match=r"nothing\.pem: "):
        Client(server.url)
    Client("http://127.0.0.1:9").close()  # it needs none


def test_a_browsers_session_stays_on_https(server: ServerProcess, authority: Authority) -> None:
    import ssl

    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    with httpx.Client(base_url=server.url, verify=trusting, headers={"origin": server.url}) as browser:
        answer = browser.post("/login", data={"token": TOKEN})
        name, *attributes = answer.headers["set-cookie"].split("; ")
        assert name.startswith("__Host-fixnorm=")
        assert {"secure", "httponly", "path=/"} <= {each.lower() for each in attributes}
        assert not any(each.lower().startswith("domain=") for each in attributes)
        assert browser.get("/", headers={"accept": "text/html"}).status_code == 200
        assert browser.get("/dashboard").url.scheme == "https"
        assert browser.post("/logout").status_code == 303
        assert browser.get("/api/v1/jobs").status_code == 401


BROKEN = ["no certificate", "no key", "a folder", "another's key", "a key with a password", "no PEM"]


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_https_cannot_be_served_with_are_refused_before_anything_starts(
    case: str, authority: Authority, tmp_path: Path
) -> None:
    given = authority.sign("whole")
    told = {
        "no certificate": f"tls_cert {tmp_path / 'none'} cannot be read: No such file",
        "no key": f"tls_key {tmp_path / 'none'} cannot be read: No such file",
        "a folder": f"tls_key {tmp_path} cannot be read: Is a directory",
        "another's key": "do not belong together",
        "a key with a password": "has a password",
        "no PEM": "cannot be used: ",
    }
    match case:
        case "no certificate":
            given = Certificate(tmp_path / "none", given.key)
        case "no key":
            given = Certificate(given.certificate, tmp_path / "none")
        case "a folder":
            given = Certificate(given.certificate, tmp_path)
        case "another's key":
            given = Certificate(given.certificate, authority.sign("other").key)
        case "a key with a password":
            given = authority.sign("hidden", password=b"secret")
        case "no PEM":
            (tmp_path / "text").write_text("no certificate")
            given = Certificate(tmp_path / "text", given.key)
    settings = Settings(state_dir=tmp_path / "state", tls_cert=given.certificate, tls_key=given.key)
    with pytest.raises(CertificateError) as raised:
        _check_certificate(settings)
    assert told[case] in str(raised.value)
    assert "openssl" in raised.value.way_out


def test_serve_ends_with_the_reason_and_leaves_nothing(authority: Authority, tmp_path: Path) -> None:
    given, other, state = authority.sign("one"), authority.sign("another"), tmp_path / "state"
    options = ["--tls-cert", str(given.certificate), "--tls-key", str(other.key), "--state-dir", str(state)]
    ended = command("serve", "--port", "0", "--backend", "simulator", *options)
    assert ended.returncode != 0
    assert "do not belong together" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not state.exists()
    ended = command("serve", *options[:2])
    assert "tls_cert and tls_key need each other" in ended.stderr


@pytest.mark.parametrize("believed", [True, False])
def test_a_proxys_word_on_https_and_on_who_asks_is_believed_of_the_one_that_is_named(
    believed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "127.0.0.1" if believed else "192.0.2.1")
    server = ServerProcess("server", tmp_path, state_dir=tmp_path / "state", admin_token=TOKEN)
    server.start()
    try:
        server.wait()
        told = {"x-forwarded-proto": "https", "host": "tune.example.org", "origin": "https://tune.example.org"}
        with httpx.Client(base_url=server.url, headers=told) as proxy:
            cookie = proxy.post("/login", data={"token": TOKEN}).headers["set-cookie"]
            assert cookie.startswith("__Host-fixnorm=") is believed
            assert ("secure" in cookie.lower()) is believed
            wrong = {"authorization": "Bearer a-token-that-nobody-made"}
            for _ in range(11):
                refused = proxy.get("/api/v1/jobs", headers=wrong | {"x-forwarded-for": "198.51.100.1"})
            assert refused.status_code == 429
            other = proxy.get("/api/v1/jobs", headers=wrong | {"x-forwarded-for": "198.51.100.2"})
            assert other.status_code == (401 if believed else 429)
    finally:
        server.stop()


def test_the_documented_command_makes_a_certificate_that_a_server_takes_and_a_client_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("openssl req")]
    subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, check=True)
    given = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with ServerProcess("own", tmp_path, state_dir=tmp_path / "state", **given).running() as own:
        for address in (own.url, own.url.replace("127.0.0.1", "localhost")):
            with Client(address) as client:
                assert client.jobs() == []
    monkeypatch.setenv("FIXNORM_TLS_CERT", str(tmp_path / "cert.pem"))
    refused = command("serve", "--state-dir", str(tmp_path / "other"))
    assert "error: tls_cert and tls_key need each other" in refused.stderr
