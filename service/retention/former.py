"""Which files in a job's ``best`` folder no result names: those of an earlier ending, or of one never committed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from service.jobs.folders import ending_of, is_ending

__all__ = ["is_former"]


def is_former(name: str, *, named: Collection[str]) -> bool:
    """Whether a file can go since the job's result is elsewhere.

    Files whose names are not ours stay. So do those right below ``best`` of a job without a result.

    Args:
        name: The file's, relative to ``best``.
        named: The paths or addresses in the job's result.
    """
    path, kept = PurePosixPath(name), {ending_of(place) for place in named}
    if len(path.parts) == 1:
        return path.name in _OURS and bool(kept) and "" not in kept
    return len(path.parts) == 2 and is_ending(path.parts[0]) and path.parts[0] not in kept


_OURS = frozenset({"weights.safetensors", "report.md", "result.json", "job.json"})
