"""``/metrics``, in Prometheus' text format."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.runtime import Running

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def show_metrics(running: Running) -> Response:
    """Jobs, attempts, resources and times of this server, for Prometheus."""
    return Response(generate_latest(running.registry), media_type=CONTENT_TYPE_LATEST)
