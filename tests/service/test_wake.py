"""A call to the dispatcher is never lost, whenever it comes."""

from __future__ import annotations

import threading

import pytest
from byhand import attempts, put, server

from fixnorm_core.spec import JobSpec
from service.dispatch.nodes import Nodes
from service.settings import Settings
from worker.recording import Recording


class CalledMeanwhile(threading.Event):
    """Asked for the first time it says no; at that very moment somebody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.was_asked = False

    def is_set(self) -> bool:
        answer = super().is_set()
        if not self.was_asked:
            self.was_asked = True
            self.set()
        return answer


def test_a_job_that_is_submitted_while_the_dispatcher_begins_a_look_is_begun_at_the_next(settings: Settings) -> None:
    with server(settings) as service:
        for _ in range(2):  # the first ones, with all that is new to a server
            service.dispatcher.tick()
        job_id = put(service, JobSpec.model_validate(Recording.packaged().job.model_dump()))
        service.dispatcher._wake = CalledMeanwhile()
        service.dispatcher.tick()
        service.dispatcher.tick()
        assert attempts(service, job_id)


def test_a_call_during_the_look_itself_is_for_the_next_one(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(settings) as service:
        for _ in range(2):
            service.dispatcher.tick()
        service.dispatcher.wake()
        load = Nodes.load

        def called(nodes: Nodes) -> bool:
            service.dispatcher.wake()
            return load(nodes)

        monkeypatch.setattr(Nodes, "load", called)
        service.dispatcher.tick()
        assert service.dispatcher._wake.is_set()
