"""``/api/v1/models``, ``/api/v1/datasets`` and ``/api/v1/recipes``: what a job can name, and jobs that have names."""

from __future__ import annotations

from fastapi import APIRouter

from fixnorm_core.data.catalog import DATA_SETS
from fixnorm_core.models.catalog import MODELS
from fixnorm_core.recipes import list_recipes as shipped_recipes
from service.schemas import DatasetView, ModelView, RecipeView

__all__ = ["router"]

router = APIRouter(tags=["catalog"])


@router.get("/models")
def list_models() -> list[ModelView]:
    """Every model that ``model.name`` can name."""
    return [ModelView(name=entry.name, options=entry.options, methods=entry.methods) for entry in MODELS.values()]


@router.get("/datasets")
def list_datasets() -> list[DatasetView]:
    """Every data set that ``data.name`` can name."""
    return [DatasetView(name=facts.name, about=facts.description) for facts in DATA_SETS.values()]


@router.get("/recipes")
def list_recipes() -> list[RecipeView]:
    """Every named job, ready to submit, the quickest to run first."""
    return [RecipeView.of(recipe) for recipe in shipped_recipes()]
