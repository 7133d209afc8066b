"""``/api/v1/plans``: what would become of a job."""

from __future__ import annotations

from fastapi import APIRouter

from fixnorm_core.spec import JobSpec
from service.access.callers import Calling
from service.answers import PROBLEM
from service.jobs.submit import check, check_deadline
from service.plans.plan import plan
from service.plans.schemas import PlanView
from service.runtime import Running
from service.webhooks.targets import check_address

__all__ = ["router"]

router = APIRouter(tags=["jobs"])


@router.post("/plans", responses={403: PROBLEM, 422: PROBLEM})
def plan_job(spec: JobSpec, running: Running, calling: Calling) -> PlanView:
    """Checks a job as submitting it would, and tells what would become of it; stores and starts nothing."""
    spec = calling.owning(spec)
    if spec.webhook is not None:
        check_address(spec.webhook, allow_private=running.settings.webhook_private)
    nodes, now = running.nodes(), running.now()
    checked = check(
        spec,
        database=running.database,
        trials=running.trials,
        images=running.settings.images,
        reach=running.reach,
        nodes=nodes,
        user_max=running.rules.user_max,
    )
    check_deadline(checked, now)
    with running.database.read() as session:
        return plan(
            checked,
            session,
            nodes=nodes,
            layout=running.layout(),
            rules=running.rules,
            now=now,
            reach=running.reach,
        )
