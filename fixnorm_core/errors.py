"""Errors that a user can act on: each names the value, the rule it breaks and the way out."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["DataError", "FixNormError", "MissingDataError", "ModelError", "RolesError", "SpecError", "WeightsError"]


class FixNormError(Exception):
    """The base of every error this project raises on purpose.

    Attributes:
        code: A stable, machine-readable name of the rule that was broken (the ``code`` of a REST problem).
        rule: What was asked and why it cannot be done; it names the offending value.
        way_out: What to change, as an instruction.
    """

    code: ClassVar[str] = "fixnorm_error"

    def __init__(self, rule: str, way_out: str = "") -> None:
        super().__init__(rule, way_out)
        self.rule = rule
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.rule}. {self.way_out}" if self.way_out else self.rule


class SpecError(FixNormError):
    """A job description that breaks a rule of :mod:`fixnorm_core.spec`."""

    code = "invalid_spec"


class ModelError(FixNormError):
    """A model that does not exist or cannot be built for this data set."""

    code = "invalid_model"


class DataError(FixNormError):
    """A data set that does not exist, is empty, or cannot be read."""

    code = "invalid_data"


class MissingDataError(DataError):
    """The folder of a data set is not there."""

    code = "missing_data"


class RolesError(FixNormError):
    """A model whose weights cannot be given the roles that the method needs."""

    code = "invalid_roles"


class WeightsError(FixNormError):
    """A weights or checkpoint file that is truncated, foreign or made for another model."""

    code = "invalid_weights"
