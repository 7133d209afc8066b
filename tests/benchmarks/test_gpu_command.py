from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_command", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_command"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_the_command_says_so_fails_and_writes_no_page() -> None:
    page = ROOT / "benchmarks" / "gpu.md"
    before = page.read_bytes() if page.exists() else None

    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "no GPU, so nothing was run or measured" in done.stderr
    assert "sees no GPU" in done.stderr
    assert (page.read_bytes() if page.exists() else None) == before


def test_every_test_with_the_gpu_marker_is_run(command: ModuleType, request: pytest.FixtureRequest) -> None:
    collect = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--collect-only", "-p", "no:cacheprovider"]
    collect += command.gpu_tests()
    done = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=True)
    run = {line for line in done.stdout.splitlines() if "::" in line}

    # Of the tests that this run has collected: all of them, if nobody chose some
    assert {test.nodeid for test in request.session.items if test.get_closest_marker("gpu")} <= run
    assert {"method", "data", "training"} <= {line.split("/")[2] for line in run}


def test_a_part_whose_packages_are_missing_is_not_run_and_named(command: ModuleType) -> None:
    part = command.Part("A part", ("-c", "print(1)"), ("no_such_package",))

    succeeded, output = command._run(Path(sys.executable), part)

    assert not succeeded
    assert output.endswith("has no no_such_package.")


def test_a_part_that_fails_is_marked_on_the_page_and_its_output_kept(command: ModuleType) -> None:
    good = command.Part("Good", ("-c", "print('| a |')"), ())
    bad = command.Part("Bad", ("-c", "import sys; sys.exit('it broke')"), ())

    outcomes = [(part, *command._run(Path(sys.executable), part)) for part in (good, bad)]
    page = command.page("A device", "2.13.0", "13.0", outcomes)

    assert [succeeded for _, succeeded, _ in outcomes] == [True, False]
    assert "A device, torch 2.13.0, CUDA 13.0" in page
    assert "## Good\n\n| a |\n" in page
    assert "## Bad\n\n**Failed or not run.**\n\n```\nit broke\n```" in page


@pytest.mark.parametrize("promised", [False, True])
def test_a_gpu_test_without_a_gpu_skips_with_a_reason_and_fails_where_one_was_promised(
    promised: bool, tmp_path: Path
) -> None:
    case = "tests/core/method/test_step_gpu.py::test_a_step_on_a_gpu_never_waits_for_it"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "FIXNORM_GPU": "1" if promised else "0"}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", case],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode != 0) == promised
    assert ("1 skipped" in done.stdout) == (not promised)
    assert "needs a CUDA GPU" in done.stdout


def test_the_optimizer_needs_torch_and_numpy_alone() -> None:
    others = ("pydantic", "safetensors", "yaml", "torchvision", "sklearn", "optuna", "ray", "PIL")
    code = f"import sys; sys.modules.update(dict.fromkeys({others!r})); from fixnorm_core import FixNorm, find_roles"

    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
