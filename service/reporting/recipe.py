"""What a user takes from a job into code or a job file of their own."""

from __future__ import annotations

from typing import Any

import yaml

from fixnorm_core.code import named_for_sending
from fixnorm_core.spec import JobSpec, Method, TrainingSpec
from service.schemas import BestView

__all__ = ["job_file", "submitted_file", "training_code", "training_file"]


def submitted_file(spec: JobSpec) -> str:
    """The job as it was submitted, as YAML: what it is of, and all else that differs from the defaults.

    Without its webhook, which may be a secret, the Python file that came with it, and its user: somebody else may
    submit it again.
    """
    spec = named_for_sending(spec)
    stored = _stored(spec)
    named: dict[str, Any] = {"name": spec.name}
    for part, name in (("model", spec.model.name), ("data", spec.data.name)):
        named[part] = {"name": name} | stored.get(part, {})
    return _written(named | {part: value for part, value in stored.items() if part not in named})


def job_file(spec: JobSpec, best: BestView) -> str:
    """The job again, beginning at the best point: only what differs from the defaults, as YAML."""
    spec, point = named_for_sending(spec), {}
    for knob, value in best.params.items():
        span = spec.search.space[knob]
        point[knob] = min(max(float(f"{value:.4g}"), span.low), span.high)
    stored = _stored(spec)
    search = {name: value for name, value in stored.get("search", {}).items() if name != "start_from"}
    changed = {**stored, "search": search | {"start": point}}
    return _written(changed)


def training_code(spec: JobSpec, best: BestView) -> str:
    """The lines that train at the best point in a loop of one's own; the optimizer is the trials' own."""
    training = spec.training
    lr = f"lr={best.params['lr']:.4g}"
    if spec.search.method is Method.WEIGHT_DECAY:
        settings = f"{lr}, {_momentum(training)}, weight_decay={best.params['weight_decay']:.4g}"
        return (
            "decayed = [p for p in model.parameters() if p.dim() >= 2]  # neither biases nor gains\n"
            "free = [p for p in model.parameters() if p.dim() < 2]\n"
            'groups = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]\n'
            f"optimizer = torch.optim.{_class(training)}(groups, {settings})\n"
        )
    factor = _rest_lr_factor(training)
    rest = f", rest_lr_factor={factor:.4g}" if factor is not None else ""
    held = "" if training.weight_norm == 1.0 else f", weight_norm={training.weight_norm!r}"
    decay = ", weight_decay=0.0" if training.optimizer.name == "adamw" else ""
    return (
        "roles = find_roles(model, images)\n"
        f"groups = parameter_groups(model, roles, {lr}{rest})\n"
        f"base = torch.optim.{_class(training)}(groups, {_momentum(training)}{decay})\n"
        f"optimizer = FixNorm(base, model, roles=roles, fc_norm={best.params['fc_norm']:.4g}{held})\n"
    )


def training_file(spec: JobSpec, best: BestView) -> str:
    """:func:`training_code` as a file: what it needs before it, and what belongs to it."""
    code, training = training_code(spec, best), spec.training
    needs = ["model   your network, a torch.nn.Module, on the device where it trains"]
    imports = ["import torch"]
    if "images" in code:
        needs.append("images  one batch of its inputs there, a float tensor of shape (n, channels, height, width)")
        imports.append("from fixnorm_core import FixNorm, find_roles, parameter_groups")
    lines = [
        f"The optimizer of job {spec.name!r} at its best point, for a training loop of your own.",
        "Define before these lines:",
        *(f"  {need}" for need in needs),
        f"Its rates are for {training.epochs} epochs of batches of {training.batch_size}, as in recipe.yaml.",
    ]
    return "".join(f"# {line}\n" for line in lines) + "\n" + "\n\n".join(imports) + "\n\n" + code


def _stored(spec: JobSpec) -> dict[str, Any]:
    stored = spec.model_dump(mode="json", exclude_defaults=True, exclude={"webhook": True, "share": {"user"}})
    return {part: value for part, value in stored.items() if value != {}}


def _written(document: dict[str, Any]) -> str:
    return str(yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100))


def _class(training: TrainingSpec) -> str:
    return "AdamW" if training.optimizer.name == "adamw" else "SGD"


def _momentum(training: TrainingSpec) -> str:
    optimizer = training.optimizer
    if optimizer.name == "adamw":
        return f"betas=({optimizer.momentum:g}, 0.999)"
    return f"momentum={optimizer.momentum:g}, nesterov={optimizer.nesterov and optimizer.momentum > 0}"


def _rest_lr_factor(training: TrainingSpec) -> float | None:
    """``fixnorm_core.training.optimization.rest_lr_factor`` without torch; None where it is the default of the call."""
    if training.rest_lr_factor is not None:
        return training.rest_lr_factor
    if training.weight_norm == "init" or training.optimizer.name != "sgd":
        return 1.0
    return None if training.weight_norm == 1.0 else 8.0 / training.weight_norm**2
