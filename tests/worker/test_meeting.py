"""Where the ranks of a trial meet."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from worker import meeting
from worker.meeting import convened, interface_of


def listening() -> set[tuple[str, int]]:
    """Addresses that this process listens on."""
    return {tuple(each.laddr) for each in psutil.Process().net_connections("tcp") if each.status == "LISTEN"}


def test_across_nodes_rank_0_listens_on_its_own_address_alone_until_the_store_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meeting, "_own_address", lambda: "127.0.0.1")
    before = listening()
    with convened(count=2, across_nodes=True) as found:
        assert listening() - before == {found.address}
        other = found.told.open(count=2)
        other.set("said", "by rank 1")
        assert found.open(count=2).get("said") == b"by rank 1"
        del other
    del found
    assert listening() == before


def test_on_one_node_they_meet_in_a_file_that_is_removed_and_nothing_listens() -> None:
    before = listening()
    with convened(count=2, across_nodes=False) as found:
        assert listening() == before
        assert Path(found.path).parent.is_dir()
        assert Path(found.path).parent.stat().st_mode & 0o077 == 0
    assert not Path(found.path).parent.exists()


def test_the_interface_of_an_address() -> None:
    loopback = interface_of("127.0.0.1")
    assert loopback in {name for _, name in socket.if_nameindex()}
    assert interface_of("198.51.100.1") is None
