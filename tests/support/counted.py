"""Classes as a real evaluation counts them, for a job of the simulator, which looks at no images."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from fixnorm_core.reports import ClassCount, ClassEvaluation, Confusion
from service.database.rows import AttemptKind, AttemptRow

__all__ = ["PETS", "count_classes", "count_classes_in"]

PETS = ClassEvaluation(
    split="test",
    accuracy=0.82,
    loss=0.5,
    examples=50,
    classes=(
        ClassCount(name="Abyssinian cat of Bulwer Street", examples=20, predicted=19, correct=17),
        ClassCount(name="dog", examples=20, predicted=25, correct=18),
        ClassCount(name="hare", examples=10, predicted=6, correct=6),
        ClassCount(name="newt", examples=0, predicted=0, correct=0),
    ),
    confusions=(
        Confusion(label="hare", predicted="dog", count=4),
        Confusion(label="Abyssinian cat of Bulwer Street", predicted="dog", count=3),
        Confusion(label="dog", predicted="Abyssinian cat of Bulwer Street", count=2),
    ),
)


def count_classes(session: Session, job_id: str, found: ClassEvaluation = PETS) -> None:
    """Stores the counts with a job's evaluation, as the evaluation itself would have."""
    of_job = AttemptRow.job_id == job_id, AttemptRow.kind == AttemptKind.EVALUATE
    for row in session.scalars(select(AttemptRow).where(*of_job)):
        row.result = found.model_dump(mode="json")


def count_classes_in(state_dir: Path, job_id: str) -> None:
    """The same beside a running server, in the SQLite file of its state folder."""
    engine = create_engine(f"sqlite:///{state_dir / 'fixnorm.db'}")
    with Session(engine) as session, session.begin():
        count_classes(session, job_id)
    engine.dispose()
