"""One job, with the calls on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fixnorm_core.reports import ClassEvaluation
from fixnorm_core.spec import Summary
from service.schemas import BestView, EventView, JobChange, JobView, TrialView

if TYPE_CHECKING:
    from service.client.async_client import AsyncClient
    from service.client.client import Client

__all__ = ["AsyncJob", "Job"]


class Job:
    """A job on a server, for the calls on it without its id; :meth:`Client.submit` and :meth:`Client.attach` give it.

    Attributes:
        view: The job as it was last seen here.
    """

    def __init__(self, client: Client, view: JobView) -> None:
        """Belongs to ``client``, and is of no use when that is closed."""
        self._client = client
        self.view = view

    def __repr__(self) -> str:
        return f"<Job {self.id} ({self.view.name}) {self.view.state}: {self.view.reason}>"

    @property
    def id(self) -> str:
        """Its id."""
        return self.view.id

    def refresh(self) -> JobView:
        """The job as it is now."""
        self.view = self._client.job(self.id)
        return self.view

    def wait(self, *, timeout: timedelta | None = None, poll: timedelta = timedelta(seconds=0.5)) -> JobView:
        """As :meth:`Client.wait`."""
        self.view = self._client.wait(self.id, timeout=timeout, poll=poll)
        return self.view

    def events(self, *, after: int = 0) -> Iterator[EventView]:
        """As :meth:`Client.events`."""
        return self._client.events(self.id, after=after)

    def logs(self, trial: int, *, attempt: int | None = None, follow: bool = False) -> Iterator[str]:
        """As :meth:`Client.logs`."""
        return self._client.logs(self.id, trial, attempt=attempt, follow=follow)

    def trials(self) -> list[TrialView]:
        """As :meth:`Client.trials`."""
        return self._client.trials(self.id)

    def best(self) -> BestView:
        """As :meth:`Client.best`."""
        return self._client.best(self.id)

    def classes(self) -> ClassEvaluation:
        """As :meth:`Client.classes`."""
        return self._client.classes(self.id)

    def summary(self) -> Summary:
        """As :meth:`Client.summary`."""
        return self._client.summary(self.id)

    def pause(self) -> JobView:
        """As :meth:`Client.pause`."""
        self.view = self._client.pause(self.id)
        return self.view

    def resume(self) -> JobView:
        """As :meth:`Client.resume`."""
        self.view = self._client.resume(self.id)
        return self.view

    def stop(self) -> JobView:
        """As :meth:`Client.stop`."""
        self.view = self._client.stop(self.id)
        return self.view

    def cancel(self) -> JobView:
        """As :meth:`Client.cancel`."""
        self.view = self._client.cancel(self.id)
        return self.view

    def retry(self) -> JobView:
        """As :meth:`Client.retry`."""
        self.view = self._client.retry(self.id)
        return self.view

    def extend(self, trials: int) -> JobView:
        """As :meth:`Client.extend`."""
        self.view = self._client.extend(self.id, trials)
        return self.view

    def update(self, change: JobChange) -> JobView:
        """As :meth:`Client.update`."""
        self.view = self._client.update(self.id, change)
        return self.view

    def report(self, *, html: bool = False) -> str:
        """As :meth:`Client.report`."""
        return self._client.report(self.id, html=html)

    def code(self) -> str:
        """As :meth:`Client.code`."""
        return self._client.code(self.id)

    def download_weights(self, *, to: Path) -> Path:
        """As :meth:`Client.download_weights`."""
        return self._client.download_weights(self.id, to=to)


class AsyncJob:
    """As :class:`Job`, for asyncio; :meth:`AsyncClient.submit` and :meth:`AsyncClient.attach` give it.

    Attributes:
        view: The job as it was last seen here.
    """

    def __init__(self, client: AsyncClient, view: JobView) -> None:
        """Belongs to ``client``, and is of no use when that is closed."""
        self._client = client
        self.view = view

    def __repr__(self) -> str:
        return f"<AsyncJob {self.id} ({self.view.name}) {self.view.state}: {self.view.reason}>"

    @property
    def id(self) -> str:
        """Its id."""
        return self.view.id

    async def refresh(self) -> JobView:
        """The job as it is now."""
        self.view = await self._client.job(self.id)
        return self.view

    async def wait(self, *, timeout: timedelta | None = None, poll: timedelta = timedelta(seconds=0.5)) -> JobView:
        """As :meth:`Client.wait`."""
        self.view = await self._client.wait(self.id, timeout=timeout, poll=poll)
        return self.view

    def events(self, *, after: int = 0) -> AsyncIterator[EventView]:
        """As :meth:`Client.events`."""
        return self._client.events(self.id, after=after)

    def logs(self, trial: int, *, attempt: int | None = None, follow: bool = False) -> AsyncIterator[str]:
        """As :meth:`Client.logs`."""
        return self._client.logs(self.id, trial, attempt=attempt, follow=follow)

    async def trials(self) -> list[TrialView]:
        """As :meth:`Client.trials`."""
        return await self._client.trials(self.id)

    async def best(self) -> BestView:
        """As :meth:`Client.best`."""
        return await self._client.best(self.id)

    async def classes(self) -> ClassEvaluation:
        """As :meth:`Client.classes`."""
        return await self._client.classes(self.id)

    async def summary(self) -> Summary:
        """As :meth:`Client.summary`."""
        return await self._client.summary(self.id)

    async def pause(self) -> JobView:
        """As :meth:`Client.pause`."""
        self.view = await self._client.pause(self.id)
        return self.view

    async def resume(self) -> JobView:
        """As :meth:`Client.resume`."""
        self.view = await self._client.resume(self.id)
        return self.view

    async def stop(self) -> JobView:
        """As :meth:`Client.stop`."""
        self.view = await self._client.stop(self.id)
        return self.view

    async def cancel(self) -> JobView:
        """As :meth:`Client.cancel`."""
        self.view = await self._client.cancel(self.id)
        return self.view

    async def retry(self) -> JobView:
        """As :meth:`Client.retry`."""
        self.view = await self._client.retry(self.id)
        return self.view

    async def extend(self, trials: int) -> JobView:
        """As :meth:`Client.extend`."""
        self.view = await self._client.extend(self.id, trials)
        return self.view

    async def update(self, change: JobChange) -> JobView:
        """As :meth:`Client.update`."""
        self.view = await self._client.update(self.id, change)
        return self.view

    async def report(self, *, html: bool = False) -> str:
        """As :meth:`Client.report`."""
        return await self._client.report(self.id, html=html)

    async def code(self) -> str:
        """As :meth:`Client.code`."""
        return await self._client.code(self.id)

    async def download_weights(self, *, to: Path) -> Path:
        """As :meth:`Client.download_weights`."""
        return await self._client.download_weights(self.id, to=to)
