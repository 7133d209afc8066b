"""The dispatcher's lease: one holder at a time, and what a former holder can still do, which is nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from service.database.engine import Database
from service.database.migrate import upgrade
from service.database.rows import JobRow, LeaseRow
from service.dispatch.lease import Lease, LeaseLost

pytestmark = pytest.mark.both_databases


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    upgrade(database_url)
    database = Database.open(database_url)
    yield database
    database.close()


class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(database: Database, clock: Clock) -> Callable[..., Lease]:
    def make(name: str, *, alone: bool = False) -> Lease:
        return Lease(database, name, timedelta(minutes=1), alone, now=lambda: datetime.now(UTC), clock=clock)

    return make


def run_out(database: Database) -> None:
    """Lets the lease end, as if its holder had not renewed it for long enough."""
    with database.write.begin() as session:
        session.execute(update(LeaseRow).values(ends_at=datetime.now(UTC) - timedelta(seconds=5)))


def holder(database: Database) -> str | None:
    with database.read() as session:
        return session.scalar(select(LeaseRow.holder))


def test_of_two_servers_one_gets_it_and_the_other_only_after_its_end(
    database: Database, server: Callable[..., Lease]
) -> None:
    first, second = server("first"), server("second")
    assert first.take()
    assert not second.take()
    assert (first.held, second.held, holder(database)) == (True, False, "first")
    run_out(database)
    assert second.take()
    assert holder(database) == "second"


def test_of_many_that_try_at_once_exactly_one_gets_it(server: Callable[..., Lease]) -> None:
    servers = [server(f"server {number}") for number in range(6)]
    threads = [threading.Thread(target=each.take) for each in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.held for each in servers) == 1


def test_a_holder_that_was_suspended_writes_nothing_and_learns_that_it_has_lost(
    database: Database, server: Callable[..., Lease]
) -> None:
    first, second = server("first"), server("second")
    assert first.take()
    run_out(database)
    assert second.take()
    assert first.held  # it does not know yet
    with pytest.raises(LeaseLost), first.writing() as session:
        session.add(JobRow(id="a", name="x", reason="", spec={}, created_at=datetime.now(UTC)))
    assert not first.held
    with database.read() as session:
        assert session.get(JobRow, "a") is None
    assert not first.renew()
    first.release()  # not its to let go
    assert holder(database) == "second"
    with second.writing() as session:
        session.add(JobRow(id="a", name="x", reason="", spec={}, created_at=datetime.now(UTC)))


def test_before_a_write_that_cannot_be_guarded_a_holder_that_may_be_late_asks(
    database: Database, server: Callable[..., Lease], clock: Clock
) -> None:
    first, second = server("first"), server("second")
    assert first.take()
    clock.seconds = 61.0
    first.check()  # over by its own clock, and still its own: it is renewed
    assert not second.take()
    run_out(database)
    assert second.take()
    first.check()  # within its time by its own clock, so it is not asked
    clock.seconds = 122.0
    with pytest.raises(LeaseLost):
        first.check()


def test_one_that_is_over_and_that_nobody_took_is_still_its_holders(
    database: Database, server: Callable[..., Lease]
) -> None:
    first, second = server("first"), server("second")
    assert first.take()
    token = first.token
    run_out(database)
    assert first.renew()
    assert first.token == token
    assert not second.take()


def test_one_whose_end_is_hours_away_because_the_clock_was_set_back_is_taken_when_nobody_renews_it(
    database: Database, server: Callable[..., Lease], clock: Clock
) -> None:
    first, second = server("first"), server("second")
    assert first.take()

    def set_clock_back() -> None:
        with database.write.begin() as session:
            session.execute(update(LeaseRow).values(ends_at=datetime.now(UTC) + timedelta(hours=3)))

    set_clock_back()
    assert not second.take()
    clock.seconds = 59.0
    assert first.renew()  # its holder is alive, and puts the end where it belongs
    clock.seconds = 61.0
    assert not second.take()
    set_clock_back()
    assert not second.take()
    clock.seconds = 120.0
    assert not second.take()
    clock.seconds = 122.0
    assert second.take()
    assert holder(database) == "second"
    with pytest.raises(LeaseLost), first.writing():
        pass


def test_a_server_that_stops_lets_another_take_it_at_once(server: Callable[..., Lease]) -> None:
    first, second = server("first"), server("second")
    assert first.take()
    first.close()
    first.close()
    assert not first.held
    assert second.take()


def test_a_server_that_is_alone_does_not_wait_for_one_that_was_killed(server: Callable[..., Lease]) -> None:
    assert server("killed").take()
    assert server("restarted", alone=True).take()


def test_nobody_takes_it_in_the_middle_of_its_holders_write(database: Database, server: Callable[..., Lease]) -> None:
    first, second = server("first"), server("second")
    assert first.take()
    run_out(database)
    order: list[str] = []

    def take() -> None:
        assert second.take()
        order.append("taken")

    thread = threading.Thread(target=take)
    with first.writing() as session:
        thread.start()
        thread.join(0.3)
        session.add(JobRow(id="a", name="x", reason="", spec={}, created_at=datetime.now(UTC)))
        session.flush()
        order.append("written")
    thread.join()
    assert order == ["written", "taken"]


def test_it_is_renewed_however_long_its_holder_is_busy_and_not_after_it_is_closed(
    database: Database, clock: Clock
) -> None:
    def ends_at() -> datetime:
        with database.read() as session:
            ends = session.scalar(select(LeaseRow.ends_at))
        assert ends is not None
        return ends

    lease = Lease(database, "busy", timedelta(milliseconds=200), False, now=lambda: datetime.now(UTC), clock=clock)
    assert lease.take()
    begin = ends_at()
    lease.keep()
    renewed = threading.Event()
    for _ in range(600):
        if ends_at() > begin:
            renewed.set()
            break
        threading.Event().wait(0.05)
    assert renewed.is_set()
    lease.close()
    assert holder(database) is None
