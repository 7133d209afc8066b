"""The one place that imports torchvision.

torchvision's wheel on the Python package index is built for CUDA. Beside a CPU build of torch its operator library
cannot be loaded, and ``import torchvision`` then fails with ``operator torchvision::nms does not exist``, although
models, transforms and data sets need no such operator. Declaring the two operators that torchvision expects at import
(``nms`` and ``qnms``, schemas as in torchvision 0.28 ``csrc/ops/nms.cpp`` and ``csrc/ops/quantized``) is enough.
Calling them fails afterwards, as it should: they have no kernel.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from importlib.util import find_spec

import torch

__all__ = ["torchvision"]


def _declare_missing_operators() -> torch.library.Library | None:
    """Declares ``nms`` and ``qnms`` if torchvision's own operator library cannot be loaded beside this torch.

    Returns:
        The declarations, which last as long as this object; None where torchvision brings its own.
    """
    package = find_spec("torchvision")
    library = PathFinder.find_spec("_C", package.submodule_search_locations) if package else None
    if package is None or (library is not None and _loads(str(library.origin))):
        return None
    declarations = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        declarations.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return declarations


def _loads(path: str) -> bool:
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True


_declarations = _declare_missing_operators()

import torchvision  # noqa: E402  (only now can it be imported)
