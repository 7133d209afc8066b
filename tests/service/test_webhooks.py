"""Webhooks: what arrives, who vouches for it, what is tried again, and where they never go."""

from __future__ import annotations

import html
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from serving import serving
from standin import Answer, Drop, StandIn
from typer.testing import CliRunner
from waiting import wait_for
from watching import watched_page

from fixnorm_core.spec import JobSpec
from service.cli.main import app
from service.client import Client
from service.composition import Service, build
from service.database.rows import DeliveryRow
from service.metrics.meters import Meters
from service.settings import Settings
from service.webhooks import courier as courier_module
from service.webhooks import deliveries
from service.webhooks.courier import PAUSES, Courier
from service.webhooks.schemas import WebhookState, WebhookView
from service.webhooks.signature import BadSecret, load_secret
from service.webhooks.targets import WebhookRefused, check_address, resolve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

JOBS = "/api/v1/jobs"
SECRET = "whsec_" + "QUJD" * 11
QUICKSTART = Path(__file__).parents[2] / "docs" / "quickstart.md"


@pytest.fixture
def receiver() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.stop()


@pytest.fixture
def verify() -> Callable[[str, dict[str, str], bytes], bool]:
    """The function that the documentation tells users to verify with."""
    (shown,) = re.findall(r"```python\n(import base64.*?)```", QUICKSTART.read_text("utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(shown, names)
    found = names["verify"]
    assert callable(found)
    return found


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_private": True})


def run_job(service: Service, job: dict[str, Any], webhook: str) -> str:
    """Runs a job to its end; its webhook is due, and no server is there to send it."""
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=60) as http:
        job_id = str(http.post(JOBS, json=job | {"webhook": webhook}).raise_for_status().json()["id"])
        wait_for(http, job_id)
    return job_id


class Clock:
    def __init__(self) -> None:
        self.time = datetime.now(UTC) + timedelta(seconds=1)

    def __call__(self) -> datetime:
        return self.time


def delivery(service: Service) -> DeliveryRow:
    with service.runtime.database.read() as session:
        return session.query(DeliveryRow).one()


@pytest.fixture
def due(settings: Settings, job: dict[str, Any], receiver: StandIn) -> Iterator[tuple[Service, Courier, Clock]]:
    """An ended job whose webhook waits, and a courier to be moved by hand."""
    receiver.stop()  # nothing answers while the job's own server is there
    run_job(build(settings), job, f"{receiver.url}/hook")
    receiver.start()
    service = build(settings)
    clock = Clock()
    clock.time += timedelta(hours=1)  # the server's own try is long past
    yield service, Courier(service.runtime.database, SECRET, allow_private=True, now=clock, meters=Meters()), clock
    service.close()


def test_a_jobs_end_is_told_once_with_a_signature_that_the_documented_way_verifies(
    settings: Settings, job: dict[str, Any], receiver: StandIn, verify: Callable[[str, dict[str, str], bytes], bool]
) -> None:
    receiver.on("POST", "/hook", Answer())
    service = build(settings)
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=60) as http:
        job_id = http.post(JOBS, json=job | {"webhook": f"{receiver.url}/hook"}).json()["id"]
        best = wait_for(http, job_id).best
        while delivery(service).delivered_at is None:
            time.sleep(0.02)
    (sent,) = receiver.sent("POST", "/hook")
    told = json.loads(sent.body)
    assert (told["type"], told["data"]["job"], told["data"]["state"]) == ("job.ended", job_id, "SUCCEEDED")
    assert best is not None
    assert told["data"]["best"]["params"] == best.params
    secret = (settings.state_dir / "webhook-secret").read_text().strip()
    assert verify(secret, sent.headers, sent.body)
    assert not verify(secret, sent.headers, sent.body + b" ")
    assert not verify(SECRET, sent.headers, sent.body)
    assert not verify(secret, sent.headers | {"webhook-timestamp": "1700000000"}, sent.body)


def shown(service: Service, job_id: str) -> WebhookView:
    """As the job's page, its JSON and the list tell; all say the same."""
    with serving(service.app) as url, Client(url) as client:
        view = client.job(job_id).webhook
        assert view is not None
        (listed,) = client.jobs()
        assert listed.webhook == view
        page = httpx.get(f"{url}/jobs/{job_id}").text
        assert f"Webhook: {html.escape(view.outcome)}" in page
        said = CliRunner().invoke(app, ["show", job_id, "--server", url]).output
        assert f"webhook    {view.outcome}" in said
    return view


def test_a_job_tells_what_has_become_of_its_webhook(settings: Settings, job: dict[str, Any], receiver: StandIn) -> None:
    receiver.on("POST", "/hook", Answer(status=500))
    service = build(settings)
    spec = JobSpec.model_validate(job | {"webhook": f"{receiver.url}/hook?key=secret"})
    with serving(service.app) as url, Client(url) as client:
        submitted = client.submit(spec)
        assert submitted.view.webhook is not None
        assert submitted.view.webhook.state is WebhookState.PROMISED
        ended = submitted.wait()
        while delivery(service).error is None:
            time.sleep(0.02)
    service = build(settings)
    failed = shown(service, ended.id)
    assert (failed.state, failed.error) == (WebhookState.WAITING, "the receiver answered 500")
    assert failed.next_try_at is not None
    assert "secret" not in failed.outcome
    service = build(settings)
    clock = Clock()
    clock.time += timedelta(hours=1)
    courier = Courier(service.runtime.database, SECRET, allow_private=True, now=clock, meters=Meters())
    receiver.on("POST", "/hook", Answer(status=410))
    while (row := delivery(service)).due_at is not None:
        clock.time = max(clock.time, row.due_at)
        courier.deliver_due()
    given_up = shown(service, ended.id)
    assert (given_up.state, given_up.next_try_at) == (WebhookState.GIVEN_UP, None)
    assert "410" in given_up.outcome
    service = build(settings)
    with service.runtime.database.write.begin() as session:
        deliveries.note(session, delivery(service), error=None, due_at=None, now=clock.time)
    delivered = shown(service, ended.id)
    assert (delivered.state, delivered.delivered_at) == (WebhookState.DELIVERED, clock.time)


def test_the_page_of_a_job_that_has_just_ended_shows_by_itself_that_its_webhook_was_told(
    settings: Settings, job: dict[str, Any], receiver: StandIn, browser: Browser
) -> None:
    receiver.on("POST", "/hook", Answer())
    slow = build(settings.model_copy(update={"epoch_seconds": 0.1}))
    spec = JobSpec.model_validate(job | {"webhook": f"{receiver.url}/hook"})
    with serving(slow.app) as url, Client(url) as client, watched_page(browser, url) as page:
        page.goto(f"/jobs/{client.submit(spec).id}")
        page.get_by_text("127.0.0.1 is told when the job has ended").wait_for()
        page.get_by_text("127.0.0.1 was told (").wait_for()
        assert len(receiver.sent("POST", "/hook")) == 1


def test_one_that_does_not_arrive_is_tried_again_with_growing_pauses_and_the_same_id(
    due: tuple[Service, Courier, Clock], receiver: StandIn
) -> None:
    service, courier, clock = due
    receiver.on("POST", "/hook", Answer(status=500), Drop(), Answer(status=302), Answer())
    tries_before = delivery(service).tries
    for number in range(3):
        assert courier.deliver_due() == 1
        assert courier.deliver_due() == 0
        row = delivery(service)
        assert row.error
        assert row.due_at == clock.time + PAUSES[tries_before + number]
        clock.time = row.due_at - timedelta(seconds=1)
        assert courier.deliver_due() == 0
        clock.time = row.due_at
    assert courier.deliver_due() == 1
    row = delivery(service)
    assert (row.delivered_at, row.due_at, row.error) == (clock.time, None, None)
    assert len({sent.headers["webhook-id"] for sent in receiver.sent("POST", "/hook")}) == 1
    assert len(receiver.sent("POST", "/hook")) == 4


@pytest.mark.parametrize(("answer", "tries"), [(Answer(status=410), 1), (Answer(status=503), len(PAUSES) + 1)])
def test_it_is_given_up_when_the_receiver_wants_no_more_or_never_takes_it(
    due: tuple[Service, Courier, Clock], receiver: StandIn, answer: Answer, tries: int
) -> None:
    service, courier, clock = due
    receiver.on("POST", "/hook", answer)
    done = delivery(service).tries
    while (row := delivery(service)).due_at is not None:
        clock.time = max(clock.time, row.due_at)
        courier.deliver_due()
    assert len(receiver.sent("POST", "/hook")) == (1 if tries == 1 else tries - done)
    assert row.delivered_at is None
    assert courier.meters.registry.get_sample_value("fixnorm_tune_webhook_tries_total", {"outcome": "given_up"}) == 1
    assert str(answer.status) in (row.error or "")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/x",
        "http://localhost/x",
        "http://a.localhost/x",
        "http://10.1.2.3/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
    ],
)
def test_a_private_address_is_refused_at_once_and_at_every_try(url: str) -> None:
    with pytest.raises(WebhookRefused, match="private network"):
        check_address(url, allow_private=False)
    check_address(url, allow_private=True)
    with pytest.raises((WebhookRefused, OSError)):
        resolve(url, allow_private=False)


def test_a_name_that_leads_into_a_private_network_is_refused_when_it_is_tried(
    due: tuple[Service, Courier, Clock], receiver: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, courier, _ = due
    courier.allow_private = False
    courier.deliver_due()
    row = delivery(service)
    assert row.due_at is None
    assert "127.0.0.1, which is not a public address" in (row.error or "")
    assert receiver.sent("POST", "/hook") == []
    mixed = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("8.8.8.8", "192.168.1.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: mixed)
    with pytest.raises(WebhookRefused, match=re.escape("192.168.1.1")):
        resolve("https://looks-public.example/", allow_private=False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: mixed[:1])
    assert resolve("https://is-public.example/", allow_private=False) == "8.8.8.8"


@pytest.mark.parametrize("url", ["https://xn--a.com/", "https://a..b/", f"https://{'a' * 64}.com/"])
def test_a_host_that_cannot_be_is_refused_at_submit_and_given_up_where_it_waits(
    url: str, due: tuple[Service, Courier, Clock]
) -> None:
    service, courier, _ = due
    with serving(service.app) as at, httpx.Client(base_url=at, timeout=60) as http:
        job = http.get(JOBS).json()["jobs"][0]["spec"] | {"webhook": url}
        for path in (JOBS, "/api/v1/plans"):
            answer = http.post(path, json=job)
            assert (answer.status_code, answer.json()["code"]) == (422, "webhook_refused")
            assert "names a host that cannot be" in answer.json()["detail"]
    with service.runtime.database.write.begin() as session:
        session.query(DeliveryRow).update({DeliveryRow.url: url})
    assert courier.deliver_due() == 1
    row = delivery(service)
    assert row.due_at is None
    assert "names a host that cannot be" in (row.error or "")


def test_an_error_that_nobody_foresaw_is_a_failed_try(
    due: tuple[Service, Courier, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, courier, clock = due
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    assert courier.deliver_due() == 1
    row = delivery(service)
    assert row.due_at == clock.time + PAUSES[row.tries - 1]
    assert "IndexError" in (row.error or "")


def test_an_answer_that_does_not_end_is_not_read_and_one_that_does_not_come_is_not_waited_for(
    due: tuple[Service, Courier, Clock], receiver: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, courier, _ = due
    monkeypatch.setattr(courier_module, "_TIMEOUT_SECONDS", 1.0)
    with dripping() as port:
        with service.runtime.database.write.begin() as session:
            session.query(DeliveryRow).update({DeliveryRow.url: f"http://127.0.0.1:{port}/"})
        assert courier.deliver_due() == 1
    assert delivery(service).error == "the receiver did not answer within 1 s"

    receiver.on("POST", "/hook", Answer(body=b"thanks", hangs=True))
    with service.runtime.database.write.begin() as session:
        values = {DeliveryRow.url: f"{receiver.url}/hook", DeliveryRow.due_at: courier.now()}
        session.query(DeliveryRow).update(values)
    assert courier.deliver_due() == 1
    assert delivery(service).delivered_at is not None


@contextmanager
def dripping() -> Iterator[int]:
    """A receiver on a port of loopback that sends a byte of its headers every tenth of a second, without end."""
    stopped = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stopped.wait(0.1):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        stopped.set()
        thread.join()


def test_a_courier_that_is_to_stop_uses_up_no_try(due: tuple[Service, Courier, Clock]) -> None:
    service, courier, _ = due
    before = delivery(service)
    courier.close()
    assert courier.deliver_due() == 0
    assert (delivery(service).tries, delivery(service).due_at) == (before.tries, before.due_at)


def test_a_job_with_a_private_webhook_is_refused_unless_the_operator_allows_it(
    settings: Settings, job: dict[str, Any]
) -> None:
    strict = build(settings.model_copy(update={"webhook_private": False}))
    with serving(strict.app) as url, httpx.Client(base_url=url, timeout=60) as http:
        answer = http.post(JOBS, json=job | {"webhook": "http://127.0.0.1/x"})
        assert (answer.status_code, answer.json()["code"]) == (422, "webhook_refused")
        assert "FIXNORM_WEBHOOK_PRIVATE" in answer.json()["way_out"]
        assert http.post(JOBS, json=job | {"webhook": "ftp://example.org"}).status_code == 422
        assert http.get(JOBS).json()["jobs"] == []


def test_the_secret_is_made_once_for_its_owner_alone_and_a_weak_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    made = load_secret(None, file=file)
    assert load_secret(None, file=file) == made
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
    assert load_secret(SECRET, file=file) == SECRET
    for weak in ("", "secret", "whsec_", "whsec_QUJD", "whsec_!!!"):
        with pytest.raises(BadSecret):
            load_secret(weak, file=file)
