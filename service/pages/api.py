"""``/docs``: the API to read, from its OpenAPI document; needs no script and no other host."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from service.access.callers import Calling
from service.pages.reference import read_openapi
from service.pages.rendering import render

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/docs", response_class=HTMLResponse)
def show_api(request: Request, calling: Calling) -> HTMLResponse:
    """Every operation and every document of the API."""
    reference = read_openapi(request.app.openapi())
    return render("api.html", reference=reference, address=str(request.base_url), caller=calling)
