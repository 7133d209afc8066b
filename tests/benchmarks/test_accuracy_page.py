from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_pages_tables_are_those_of_the_kept_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from accuracy_pages import PAGES, filled

    for name in PAGES:
        page = (BENCHMARKS / name).read_text(encoding="utf-8")
        assert page.count("<!-- table: ") == page.count("<!-- end -->") > 0
        assert filled(page) == page


def test_a_peak_is_found_between_the_points_of_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from accuracy.best import peak

    # 0.5 less a hundredth for each octave squared away from 0.02
    points = {0.005 * 2**step: 0.5 - 0.01 * (step - 2) ** 2 for step in range(5)}
    assert peak(points) == pytest.approx(0.02)
    rising = {0.005 * 2**step: 0.4 + 0.01 * step for step in range(4)}
    assert peak(rising) == pytest.approx(0.04)
