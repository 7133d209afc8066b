"""``/api/v1/models`` and ``/api/v1/datasets``: what a job can name."""

from __future__ import annotations

from fastapi import APIRouter

from fixnorm_core.data.catalog import DATA_SETS
from fixnorm_core.models.catalog import MODELS
from service.schemas import DatasetView, ModelView

__all__ = ["router"]

router = APIRouter(tags=["catalog"])


@router.get("/models")
def list_models() -> list[ModelView]:
    """Every model that ``model.name`` can name."""
    return [ModelView(name=entry.name, options=entry.options) for entry in MODELS.values()]


@router.get("/datasets")
def list_datasets() -> list[DatasetView]:
    """Every data set that ``data.name`` can name."""
    return [DatasetView(name=facts.name, about=facts.description) for facts in DATA_SETS.values()]
