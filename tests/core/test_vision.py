from __future__ import annotations

import subprocess
import sys


def test_torchvision_imports_silently_with_models_transforms_and_data_sets() -> None:
    code = (
        "from fixnorm_core.vision import torchvision; import torchvision.transforms.v2; "
        "torchvision.models.get_model('squeezenet1_1'); torchvision.datasets.FakeData(size=1)[0]"
    )

    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_operators_are_declared_exactly_where_torchvisions_own_cannot_be_loaded() -> None:
    code = (
        "from fixnorm_core import vision; import torch; from torchvision.extension import _has_ops; "
        "assert (vision._declarations is None) == _has_ops(); torch.ops.torchvision.nms"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
