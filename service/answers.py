"""Problems (RFC 9457) as answers, the same from whatever part of the application refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from service.schemas import Problem

__all__ = ["PROBLEM", "PROBLEM_TYPE", "answer_problem"]

PROBLEM_TYPE = "application/problem+json"
PROBLEM: dict[str, Any] = {"model": Problem, "content": {PROBLEM_TYPE: {}}}
"""Such an answer in the OpenAPI document: a value of FastAPI's ``responses``."""


def answer_problem(problem: Problem, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that tells of a problem, with its status.

    Args:
        problem: What is told.
        headers: More headers.
    """
    return JSONResponse(problem.model_dump(mode="json"), problem.status, headers=headers, media_type=PROBLEM_TYPE)
