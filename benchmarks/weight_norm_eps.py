"""Which norm R keeps the eps of BatchNorm harmless: eps against no eps, over widths and R.

    python benchmarks/weight_norm_eps.py

A scale-invariant weight of norm R feeds a BatchNorm inputs of variance about R² · (mean square of its inputs) /
filters, to which eps = 1e-5 is added. So R also sets how much eps does. Three 3 x 3 convolutions of one width, each
before a BatchNorm and a ReLU, and a linear head see random images in training mode, in float64. With eps and without
(1e-30): the change of the logits as a share of their spread; the effective gradient, ‖∂L/∂W‖ · ‖W‖, as a ratio, median
over the convolutions; the radial share of the gradient, zero for an exactly scale-invariant weight, their largest.
"""

from __future__ import annotations

import statistics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDTHS = (16, 64, 256, 512)
_NORMS = (0.1, 0.3, 1.0, 3.0, 10.0)
_EPS = 1e-5


def main() -> None:
    """Prints one row per width and R."""
    torch.set_num_threads(1)
    print("| width | R | smallest input variance | change of logits | effective gradient | radial share |")
    print("|---|---|---|---|---|---|")
    for width in _WIDTHS:
        for norm in _NORMS:
            variance, change, ratio, share = compare(width, norm=norm)
            print(f"| {width} | {norm:g} | {variance:.1e} | {change:.2%} | {ratio:.4f} | {share:.1e} |", flush=True)


def compare(width: int, *, norm: float) -> tuple[float, float, float, float]:
    """Smallest mean variance before a BatchNorm; change of the logits; ratio of gradients; largest radial share."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (3, width, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)).double()
    weights = [layer.weight for layer in model if isinstance(layer, nn.Conv2d)]
    for weight in weights:
        weight.data.mul_(norm / weight.data.norm())
    images, labels = torch.randn(64, 3, 8, 8, dtype=torch.float64), torch.randint(10, (64,))
    variances: list[float] = []
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(
                lambda _, x: variances.append(float(x[0].detach().var(dim=(0, 2, 3)).mean()))
            )
    exact, exact_gradients = _logits_and_gradients(model, weights, images, labels, eps=1e-30)
    got, gradients = _logits_and_gradients(model, weights, images, labels, eps=_EPS)
    ratios = [float(g.norm() / e.norm()) for g, e in zip(gradients, exact_gradients, strict=True)]
    shares = [
        float((w.detach() * g).sum().abs() / w.detach().norm() / g.norm())
        for w, g in zip(weights, gradients, strict=True)
    ]
    change = float((got - exact).norm() / exact.std(dim=0).norm() / len(exact) ** 0.5)
    return min(variances), change, statistics.median(ratios), max(shares)


def _logits_and_gradients(
    model: nn.Module, weights: list[Tensor], images: Tensor, labels: Tensor, *, eps: float
) -> tuple[Tensor, tuple[Tensor, ...]]:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = eps
    logits = model(images)
    return logits.detach(), torch.autograd.grad(F.cross_entropy(logits, labels), weights)


if __name__ == "__main__":
    main()
