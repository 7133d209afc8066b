"""The tests and benchmarks that need a GPU, and their results page: what `make gpu` runs.

It needs nothing but Python, and looks for an interpreter whose torch sees a GPU: that of .venv, then the one that runs
it. What that interpreter lacks is left out, said so on the page, and makes the exit status non-zero, as a failure does:
the step's benchmark needs torch, torchvision and NumPy; the trainer's needs the project's own requirements; the tests
need pytest. Without a GPU nothing is measured, no page is written, and the exit status is 2.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "benchmarks" / "gpu.md"
_LOOK = """
import sys
try:
    import torch
except ImportError:
    sys.exit("has no torch")
if not torch.cuda.is_available():
    sys.exit(f"has torch {torch.__version__}, which sees no GPU")
print(f"{torch.cuda.get_device_name()}|{torch.__version__}|{torch.version.cuda or torch.version.hip}")
"""


@dataclass(frozen=True, slots=True)
class Part:
    """Something to run.

    Attributes:
        title: On the page.
        arguments: For Python.
        needs: The packages it imports.
    """

    title: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]


def gpu_tests() -> tuple[str, ...]:
    """The files below ``tests`` with a test that needs a GPU, relative to the repository; other files import more."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in files if re.search(r"^\s*@pytest\.mark\.gpu$", path.read_text("utf-8"), flags=re.M)]
    return tuple(path.relative_to(ROOT).as_posix() for path in marked)


PARTS = (
    Part(
        "Tests",
        ("-m", "pytest", "-m", "gpu", "-q", *gpu_tests()),
        ("pytest", "torchvision", "pydantic", "safetensors", "numpy", "PIL", "yaml", "psutil"),
    ),
    Part(
        "Training step with FixNorm against the base optimizer alone; goal: a ratio of at most 1.01",
        ("benchmarks/step_overhead.py", "--device", "cuda", "--blocks", "40"),
        ("torchvision", "numpy"),
    ),
    Part(
        "Trainer against a lean loop; goals: at least 0.97 of its images per second, at most 1.05 of its memory",
        ("benchmarks/gpu_trainer.py", "--blocks", "10"),
        ("torchvision", "pydantic", "safetensors"),
    ),
)


def main() -> int:
    """Runs all parts; the exit status is 0 only if every one of them ran and succeeded."""
    python, facts = _find_gpu([ROOT / ".venv" / "bin" / "python", Path(sys.executable)])
    if python is None:
        print(f"make gpu: no GPU, so nothing was run or measured: {facts}", file=sys.stderr)
        print("Run it on a machine with an NVIDIA GPU, its driver and a CUDA build of torch.", file=sys.stderr)
        return 2
    device, torch_version, cuda = facts.split("|")
    outcomes = [(part, *_run(python, part)) for part in PARTS]
    PAGE.write_text(page(device, torch_version, cuda, outcomes), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    for part, succeeded, output in outcomes:
        if not succeeded:
            print(f"make gpu: not done: {part.title}: {output.strip().splitlines()[-1:]}", file=sys.stderr)
    return 0 if all(succeeded for _, succeeded, _ in outcomes) else 1


def page(device: str, torch_version: str, cuda: str, outcomes: list[tuple[Part, bool, str]]) -> str:
    """The results page."""
    day = datetime.datetime.now(tz=datetime.UTC).date()
    lines = ["# On a GPU", "", "    make gpu", "", f"{device}, torch {torch_version}, CUDA {cuda}, {day}.", ""]
    for part, succeeded, output in outcomes:
        lines += [f"## {part.title}", ""]
        lines += [] if succeeded else ["**Failed or not run.**", ""]
        is_table = output.lstrip().startswith("|")
        lines += [output.strip() if is_table else f"```\n{output.strip()[-4000:]}\n```", ""]
    return "\n".join(lines)


def _find_gpu(interpreters: list[Path]) -> tuple[Path | None, str]:
    """The first interpreter whose torch sees a GPU, with what it sees; or none, with the reasons."""
    reasons = []
    for python in interpreters:
        if not python.exists():
            continue
        looked = subprocess.run([python, "-c", _LOOK], capture_output=True, text=True, check=False)
        if looked.returncode == 0:
            return python, looked.stdout.strip()
        reasons.append(f"{python} {(looked.stderr.strip().splitlines() or ['cannot be run'])[-1]}")
    return None, "; ".join(reasons)


def _run(python: Path, part: Part) -> tuple[bool, str]:
    code = f"import importlib.util as u; print(*[n for n in {part.needs!r} if u.find_spec(n) is None])"
    missing = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    if missing:
        return False, f"Not run: {python} has no {', '.join(missing)}."
    print(f"running {' '.join(part.arguments)}", flush=True)
    environment = {**os.environ, "FIXNORM_GPU": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python, *part.arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode == 0, done.stdout if done.returncode == 0 else done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
