"""Reads server-sent events as a browser does: whole events only, each with its id."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from service.schemas import EventView


def read_events(client: httpx.Client, job_id: str, *, after: int | None = None) -> Iterator[EventView]:
    """Events until the server closes the stream, or the connection breaks."""
    headers = {"Last-Event-ID": str(after)} if after is not None else {}
    with client.stream("GET", f"/api/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code in (200, 204), answer.read()
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            if "data" in fields:
                event = EventView.model_validate_json(fields["data"])
                assert (fields["id"], fields["event"]) == (str(event.number), event.kind)
                yield event
            fields = {}
