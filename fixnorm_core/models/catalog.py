"""The names of all networks and what each can be given. Knows no torch, so that a server can validate a job.

The torchvision part mirrors ``torchvision.models.list_models(module=torchvision.models)`` of torchvision 0.28 (a test
compares the two); per family it lists the factory's options that are plain numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from fixnorm_core.errors import ModelError
from fixnorm_core.own import check_own, is_own
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.spec import Method, ModelSpec

__all__ = ["MODELS", "ModelEntry", "check_method", "check_model"]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One network that can be asked for.

    Attributes:
        name: What :class:`fixnorm_core.spec.ModelSpec` calls it.
        family: Networks that share a stem and options; ``"small_resnet"`` and ``"mobilenet_v2_scaled"`` are ours, the
            others are torchvision's.
        options: Names that ``ModelSpec.options`` may hold.
        small_stem: Whether its early down-sampling can be taken out for small images (``stem: small``).
        scale_invariant: Whether it has a scale-invariant weight. It has none without normalization layers, and none
            where every layer in front of one has a bias (as in vit, swin and convnext).
    """

    name: str
    family: str
    options: tuple[str, ...]
    small_stem: bool
    scale_invariant: bool

    @property
    def methods(self) -> tuple[Method, ...]:
        """What ``search.method`` can be for it."""
        return tuple(Method) if self.scale_invariant else (Method.WEIGHT_DECAY,)


def check_method(spec: ModelSpec, method: Method) -> None:
    """Refuses a method that a model of the catalog cannot be tuned by, before any trial has to find out.

    Raises:
        ModelError: for ``fixnorm`` on a network without a scale-invariant weight, which has no norm to hold.
    """
    entry = MODELS.get(spec.name)
    if entry is not None and method not in entry.methods:
        like = f"{spec.name}_bn" if entry.family == "vgg" else _LIKE.get(entry.family, "vgg11_bn")
        raise ModelError(
            f"model {spec.name} cannot be tuned by search.method {method}: no weight of it is scale-invariant, since "
            "no normalization follows a layer without a bias, so there is no norm to hold",
            f"Take a model that has such weights, for example {like} or resnet18, or write search.method: weight_decay",
        )


def check_model(spec: ModelSpec, *, reach: Reach = LOCAL) -> None:
    """Refuses a model that cannot exist, whatever the data.

    Args:
        spec: The model.
        reach: Which modules may be imported.

    Raises:
        ModelError: for an unknown name, a factory that may not be imported, an option that the model does not have, an
            option of one of our own models with a value out of range, or ``stem: small`` where the family has none.
    """
    if is_own(spec.name):
        check_own(spec.name, reach=reach, refusal=ModelError)
        if spec.stem == "small":
            raise ModelError(f"model {spec.name} is your own and has no stem to exchange", "Leave stem out")
        return
    entry = MODELS.get(spec.name)
    if entry is None:
        raise ModelError(f"there is no model {spec.name!r}", _nearest(spec.name, MODELS, "model"))
    for option in spec.options:
        if option not in entry.options:
            has = f"its options are {', '.join(entry.options)}" if entry.options else "it has no options"
            raise ModelError(
                f"model {spec.name} has no option {option!r}; {has}", _nearest(option, entry.options, "option")
            )
    if spec.stem == "small" and not entry.small_stem:
        raise ModelError(
            f"model {spec.name} has no small stem",
            "Leave stem at auto or imagenet, or take a model of another family, for example resnet18",
        )
    if entry.family == "small_resnet":
        _check_small_resnet(spec)
    if entry.family == "mobilenet_v2_scaled":
        _check_scaled(spec)


def _nearest(word: str, known: Mapping[str, object] | tuple[str, ...], what: str) -> str:
    near = get_close_matches(word, list(known), n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return "See `fixnorm-tune models` for all names" if what == "model" else f"Remove the {what} {word!r}"


def _check_small_resnet(spec: ModelSpec) -> None:
    for option, highest in (("width", 1024), ("blocks", 32)):
        value = spec.options.get(option, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
            raise ModelError(
                f"{option} of small_resnet is {value!r}; it is a whole number from 1 to {highest}",
                f"Give {option} a whole number in that range",
            )
    norm = spec.options.get("norm", "batch")
    if norm not in ("batch", "group"):
        raise ModelError(f"norm of small_resnet is {norm!r}; it is batch or group", "Write norm: batch or norm: group")


def _check_scaled(spec: ModelSpec) -> None:
    for option, value in spec.options.items():
        is_share = option != "width_mult"
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not (0 <= float(value) < 1 if is_share else 0.1 <= float(value) <= 8):
            rule = "a share, from 0 to below 1" if is_share else "a factor from 0.1 to 8"
            raise ModelError(
                f"{option} of {spec.name} is {value!r}; it is {rule}", f"Give {option} a number in that range"
            )


_DEPTH = "stochastic_depth_prob"
# As measured by find_roles; maxvit and swin_v2 have some
_NO_INVARIANCE = frozenset(
    [
        "alexnet",
        "squeezenet1_0",
        "squeezenet1_1",
        "vgg11",
        "vgg13",
        "vgg16",
        "vgg19",
        "swin_t",
        "swin_s",
        "swin_b",
        "convnext_tiny",
        "convnext_small",
        "convnext_base",
        "convnext_large",
        "vit_b_16",
        "vit_b_32",
        "vit_l_16",
        "vit_l_32",
        "vit_h_14",
    ]
)
_LIKE = {"swin": "swin_v2_t", "vit": "swin_v2_t", "convnext": "resnet50"}
# family: (names, options, has a small stem)
_FAMILIES: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "small_resnet": ("small_resnet", ("width", "blocks", "norm"), True),
    "alexnet": ("alexnet", ("dropout",), False),
    "convnext": ("convnext_tiny convnext_small convnext_base convnext_large", (_DEPTH, "layer_scale"), False),
    "densenet": ("densenet121 densenet161 densenet169 densenet201", ("drop_rate", "memory_efficient"), True),
    "efficientnet": (
        "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 "
        "efficientnet_b6 efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l",
        ("dropout", _DEPTH),
        True,
    ),
    "googlenet": ("googlenet", ("dropout",), True),
    "inception": ("inception_v3", ("dropout",), False),
    "maxvit": ("maxvit_t", ("mlp_dropout", "attention_dropout"), False),
    "mnasnet": ("mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3", ("dropout",), True),
    "mobilenet_v2": ("mobilenet_v2", ("width_mult", "round_nearest", "dropout"), True),
    "mobilenet_v2_scaled": ("mobilenet_v2_scaled", ("width_mult", "dropout", _DEPTH), True),
    "mobilenet_v3": ("mobilenet_v3_small mobilenet_v3_large", ("dropout",), True),
    "regnet": (
        "regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf regnet_x_16gf regnet_x_32gf "
        "regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf regnet_y_32gf "
        "regnet_y_128gf",
        (),
        True,
    ),
    "resnet": (
        "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d "
        "wide_resnet50_2 wide_resnet101_2",
        ("zero_init_residual",),
        True,
    ),
    "shufflenet": ("shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0", (), True),
    "squeezenet": ("squeezenet1_0 squeezenet1_1", ("dropout",), True),
    "swin": ("swin_t swin_s swin_b swin_v2_t swin_v2_s swin_v2_b", ("dropout", "attention_dropout"), False),
    "vgg": ("vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn", ("dropout",), False),
    "vit": ("vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14", ("dropout", "attention_dropout"), False),
}

MODELS: Mapping[str, ModelEntry] = MappingProxyType(
    {
        name: ModelEntry(
            name=name,
            family=family,
            options=options,
            small_stem=small_stem,
            scale_invariant=name not in _NO_INVARIANCE,
        )
        for family, (names, options, small_stem) in _FAMILIES.items()
        for name in names.split()
    }
)
