from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_run_of_tiny_sizes_measures_every_row_and_fills_the_page(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text((BENCHMARKS / "service_speed.md").read_text(encoding="utf-8"), encoding="utf-8")
    sizes = "--pairs 1 --jobs 1 --trials 2 --parallel 2 --stored 3 --requests 4"
    command = [sys.executable, BENCHMARKS / "service_speed.py", "--parts", "trials", "posts", "reading", *sizes.split()]

    done = subprocess.run([*command, "--results", results, "--page", page], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    kept = json.loads(results.read_text(encoding="utf-8"))
    assert all(pair["trials"] == 2 for pairs in kept["trials"].values() for pair in pairs)
    assert [posts["errors"] for posts in kept["posts"].values()] == [0, 0]
    assert list(kept["reading"]) == ["3"]
    text = page.read_text(encoding="utf-8")
    assert "| SQLite | one epoch |" in text
    assert "| POST /jobs, 50 clients at once; 0 errors |" in text
    assert "| GET /jobs/{id}/trials, 3 jobs |" in text
    assert "after the requests, 3 jobs stored" in text


def test_a_run_on_ray_tells_the_gaps_of_every_slot(tmp_path: Path) -> None:
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    page.write_text("", encoding="utf-8")
    sizes = "--jobs 1 --trials 4 --parallel 1"
    command = [sys.executable, BENCHMARKS / "service_speed.py", "--parts", "gap", *sizes.split()]

    done = subprocess.run([*command, "--results", results, "--page", page], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    gaps = json.loads(results.read_text(encoding="utf-8"))["gap"]
    assert [len(seconds) for seconds in gaps.values()] == [
        4,
        4,
    ]  # the test images are the last task; warming up is left out
    assert all(0 < gap < 60 for seconds in gaps.values() for gap in seconds)


def test_the_pages_tables_are_those_of_the_kept_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pages
    from service_speed.tables import TABLES

    page = (BENCHMARKS / "service_speed.md").read_text(encoding="utf-8")
    results = json.loads((BENCHMARKS / "service_speed.json").read_text(encoding="utf-8"))
    assert page.count("<!-- table: ") == page.count("<!-- end -->") == len(TABLES)
    assert pages.filled(page, lambda name: TABLES[name](results)) == page
