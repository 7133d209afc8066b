"""Works a plan out: the checked job, its first points, and its place in the queue as it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from fixnorm_core.buckets import is_url
from fixnorm_core.data.counts import count_by_class
from fixnorm_core.data.sample import look_at_some
from fixnorm_core.data.splits import Part
from fixnorm_core.data.store import BucketDown, NotEquipped
from fixnorm_core.errors import DataError
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.spec import DataSpec, JobSpec, TrainingSpec, warm_starts_of
from service.plans.schemas import PlanView
from service.queue.places import Place, find_places
from service.queue.share import Rules
from service.queue.standing import Standing
from service.schemas import JobState
from service.studies.storage import close_storage, open_scratch
from service.studies.studies import Studies
from worker.contracts import Node, Resources
from worker.room import Layout

__all__ = ["first_points", "plan"]

_NAME = "the job of this plan"
_NAMED = 3
"""Classes that a note names."""
_FEW_STEPS = 50
"""A trial of fewer has hardly begun to learn."""


def plan(
    spec: JobSpec,
    session: Session,
    *,
    nodes: Sequence[Node],
    layout: Layout | Sequence[Node],
    rules: Rules,
    now: datetime,
    reach: Reach = LOCAL,
) -> PlanView:
    """What would become of a job.

    Args:
        spec: Checked already, as a submitted one is.
        session: A reading session.
        nodes: The machines that trials can run on.
        layout: What is held on which of them, as for :func:`service.queue.places.find_places`.
        rules: The operator's, of fair share.
        now: The time.
        reach: What of the data may be looked at.
    """
    place = _place(spec, session, layout=layout, rules=rules, now=now)
    fitting = (_many(Resources.of(spec.resources), node.total) for node in nodes)
    at_once = min(spec.trials_at_once, sum(fitting), spec.budget.max_trials)
    waits = place.obstacle is not None
    images, doubts = _images(spec.data, reach)
    steps = None
    if images is not None:
        steps = math.ceil(sum(images["train"].values()) / spec.training.batch_size)
        doubts += _doubts(spec.training, sum(images["train"].values()), steps=steps)
    return PlanView(
        spec=spec,
        notes=(*(each.note for each in warm_starts_of(spec.search, training=spec.training)), *doubts),
        images=images,
        steps_per_epoch=steps,
        first_points=tuple(first_points(spec, count=at_once)),
        trials_at_once=at_once,
        epochs=spec.budget.max_trials * spec.training.epochs,
        place=place.number if waits else None,
        reason=place.reason if waits else "there is room: it starts at once",
    )


def first_points(spec: JobSpec, *, count: int) -> list[dict[str, float]]:
    """The points of the first ``count`` trials, as the job will ask for them while none has ended."""
    storage = open_scratch()
    try:
        study = Studies(storage).open("plan", spec)
        return [study.ask().params for _ in range(count)]
    finally:
        close_storage(storage)


def _images(data: DataSpec, reach: Reach) -> tuple[dict[str, dict[str, int]] | None, list[str]]:
    """The images of each class by split, and what is wrong with them."""
    try:
        counted = count_by_class(data, reach=reach)
    except NotEquipped:
        return None, [
            f"this server has no keys for {data.path}, or not the extra s3, and did not look there: the first trial "
            "finds out what is in it"
        ]
    except BucketDown as error:
        return None, [f"its trials would wait: {error}"]
    except DataError as error:
        return None, [f"its trials would fail: {error}"]
    except OSError:  # a folder that went away meanwhile
        counted = None
    if counted is None:
        return None, []
    doubts = [doubt for part in (Part.VALIDATION, Part.TEST) if (doubt := _missing(part, counted[part])) is not None]
    return {part.name.lower(): counts for part, counts in counted.items()}, doubts + _damaged(data, reach)


def _missing(part: Part, counts: Mapping[str, int]) -> str | None:
    """Which classes a split has no images of."""
    names = [name for name, count in counts.items() if not count]
    if not names:
        return None
    told = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    subject = f"class {told} has" if len(names) == 1 else f"classes {told} have"
    return (
        f"{subject} no {part.name.lower()} images, so no {part.name.lower()} accuracy counts how they are recognized: "
        "add some (a class needs three images to be in all splits)"
    )


def _damaged(data: DataSpec, reach: Reach) -> list[str]:
    if data.name != "imagefolder" or data.path is None or is_url(data.path):
        return []
    try:
        seen = look_at_some(Path(data.path), reach=reach)
    except (DataError, OSError):  # it has changed since it was counted
        return []
    if not seen.damaged:
        return []
    fate = "they would be left out" if data.skip_corrupt else "a trial that reads one fails"
    way_out = "" if data.skip_corrupt else "; replace or remove them, or set data.skip_corrupt to true"
    found = f"of {seen.looked_at} images that were looked at {len(seen.damaged)} cannot be read"
    return [f"{found}, {seen.damaged[0]} for one: {fate}{way_out}"]


def _doubts(training: TrainingSpec, images: int, *, steps: int) -> list[str]:
    """What is likely to be a mistake, of a trial on so many images in so many steps an epoch."""
    doubts = []
    if training.batch_size > images:
        doubts.append(
            f"training.batch_size {training.batch_size} is more than the {images} training images: an epoch is 1 step"
        )
    if (total := steps * training.epochs) < _FEW_STEPS:
        doubts.append(
            f"a trial is {total} step{'' if total == 1 else 's'} in all, in which hardly anything is learned: lower "
            "training.batch_size or raise training.epochs"
        )
    return doubts


def _place(spec: JobSpec, session: Session, *, layout: Layout | Sequence[Node], rules: Rules, now: datetime) -> Place:
    newcomer = Standing(
        job_id=_NAME,
        name=spec.name,
        state=JobState.QUEUED,
        reason="",
        cancel_requested=False,
        created_at=now,
        started_at=None,
        served_at=None,
        waiting_since=None,
        share=spec.share,
        needed=Resources.of(spec.resources),
    )
    places = find_places(session, layout=layout, rules=rules, now=now, newcomer=newcomer)
    return next(place for place in places if place.standing.job_id == _NAME)


def _many(needed: Resources, node: Resources) -> int:
    """How many trials a node holds at once when nothing else runs; what shares a GPU is on one GPU."""
    by_cpus = math.floor(node.cpus / needed.cpus + 1e-9)
    if needed.gpus == 0:
        return by_cpus
    if needed.gpus < 1:
        return min(by_cpus, math.floor(node.gpus) * math.floor(1 / needed.gpus + 1e-9))
    return min(by_cpus, math.floor(node.gpus / needed.gpus + 1e-9))
