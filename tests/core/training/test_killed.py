import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from fixnorm_core.data.types import TrainingData
from fixnorm_core.spec import TrialSpec
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer

TRAIN = """
import sys
from pathlib import Path

import torch

from fixnorm_core.spec import TrialSpec
from fixnorm_core.training.trainer import Trainer

torch.set_num_threads(1)
for report in Trainer(TrialSpec.model_validate_json(sys.argv[1]), folder=Path(sys.argv[2])):
    print(report.epoch, flush=True)
"""


def test_run_killed_in_the_middle_of_an_epoch_ends_as_it_would_have(
    make_trial: Callable[..., TrialSpec], small_digits: TrainingData, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    trial = make_trial(epochs=30)
    list(Trainer(trial, folder=tmp_path / "whole", data=small_digits))

    command = [sys.executable, "-c", TRAIN, trial.model_dump_json(), str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "3":
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL

    resumed = Trainer(trial, folder=tmp_path / "killed", data=small_digits)
    assert len(list(resumed)) == 30
    expected, found = (load_file(tmp_path / run / WEIGHTS_NAME) for run in ("whole", "killed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
