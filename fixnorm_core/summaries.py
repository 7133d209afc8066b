"""Files of what finished jobs have learned: ``fixnorm-tune summary`` writes them, ``search.warm_start`` names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fixnorm_core.errors import SpecError
from fixnorm_core.explain import explain
from fixnorm_core.spec import Summary

__all__ = ["load_summaries", "read_warm_start"]

_WAY_OUT = "Give a file that `fixnorm-tune summary JOB > FILE` has written, or the id of a finished job"


def load_summaries(path: Path) -> list[Summary]:
    """Reads a file of one summary or several.

    Raises:
        SpecError: The file cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
        # Strict in, lenient out: the file may be a newer release's
        return [Summary.model_validate(one, extra="ignore") for one in (found if isinstance(found, list) else [found])]
    except OSError as error:
        rule = f"which cannot be read: {error.strerror}"
    except ValidationError as error:
        broken = explain(error, model=Summary)[0]
        rule = f"which holds no summary: {f'{broken.field}: ' if broken.field else ''}{broken.rule}"
    except ValueError as error:
        rule = f"which is not JSON: {error}"
    raise SpecError(f"search.warm_start names {path}, {rule}", _WAY_OUT)


def read_warm_start(document: dict[str, Any], *, folder: Path) -> None:
    """Puts what the files of ``search.warm_start`` hold in their place, in a job's document that is not validated yet.

    Args:
        document: Changed in place. Whatever in it is not as it should be is left for the validation to name.
        folder: Where relative paths start.

    Raises:
        SpecError: As for :func:`load_summaries`.
    """
    search = document.get("search")
    named = search.get("warm_start") if isinstance(search, dict) else None
    entries = [named] if isinstance(named, str) else named
    if not isinstance(search, dict) or not isinstance(entries, list):
        return
    search["warm_start"] = [
        each
        for entry in entries
        for each in (_documents(folder / entry) if isinstance(entry, str) and _is_file(entry) else [entry])
    ]


def _documents(path: Path) -> list[dict[str, Any]]:
    return [summary.model_dump(mode="json") for summary in load_summaries(path)]


def _is_file(entry: str) -> bool:
    """Ids of jobs have neither."""
    return "/" in entry or entry.endswith(".json")
