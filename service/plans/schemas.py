"""What the API tells of a job that has not been submitted."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from fixnorm_core.spec import JobSpec

__all__ = ["PlanView"]


class PlanView(BaseModel):
    """What would become of a job if it were submitted now.

    Attributes:
        spec: With every default filled in and the data found.
        notes: What its warm starts say, and what of its data and its steps is likely to be a mistake.
        images: So many of each class in each split; None where that cannot be told without reading them, or not in a
            moment. Damaged files count.
        steps_per_epoch: Of the optimizer; None where ``images`` is.
        first_points: Of the trials that would start first, before any result is known.
        trials_at_once: How many the job and the nodes allow; room that others hold counts as free.
        epochs: That it trains at most, all trials together; a retried trial's are not counted twice.
        place: Its place among those that wait for room, were it submitted now; None when there is room.
        reason: Why it would wait, or that it would not.
    """

    model_config = ConfigDict(frozen=True)

    spec: JobSpec
    notes: tuple[str, ...]
    images: dict[str, dict[str, int]] | None = None
    steps_per_epoch: int | None = None
    first_points: tuple[dict[str, float], ...]
    trials_at_once: int
    epochs: int
    place: int | None
    reason: str
