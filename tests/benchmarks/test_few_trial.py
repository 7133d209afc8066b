from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_landscape_passes_through_what_was_recorded_within_its_noise() -> None:
    from few_trial.results import RECORDED
    from few_trial.surfaces import load

    from worker.recording import Recording

    surface = load(RECORDED["under"])
    recording = Recording.model_validate_json(RECORDED["under"].read_text(encoding="utf-8"))
    runs = [run for run in recording.runs if not run.diverged]
    errors = surface.truth([run.params for run in runs]) - [run.validation_accuracy[-1] for run in runs]
    assert np.abs(np.mean(errors)) < surface.noise
    assert np.std(errors) < 3 * surface.noise


def test_a_landscape_has_no_peak_that_was_not_recorded() -> None:
    from few_trial.results import RECORDED
    from few_trial.surfaces import load

    surface = load(RECORDED["under"])
    assert surface.truth([surface.peak()])[0] <= surface.nodes.max() + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_a_cropped_box_still_holds_the_peak(seed: int) -> None:
    from few_trial.results import RECORDED
    from few_trial.surfaces import load

    surface = load(RECORDED["under"])
    box = surface.crop(np.random.default_rng(seed))
    peak = surface.peak()
    for knob, axis in zip(surface.knobs, surface.axes, strict=True):
        assert box.low[knob] <= peak[knob] * (1 + 1e-9)
        assert peak[knob] <= box.high[knob] * (1 + 1e-9)
        assert axis[0] <= box.low[knob] * (1 + 1e-9)
        assert box.high[knob] <= axis[-1] * (1 + 1e-9)
        assert math.log(box.high[knob] / box.low[knob]) < math.log(axis[-1] / axis[0]) + 1e-9
    assert surface.best(box) == pytest.approx(surface.truth([peak])[0], abs=1e-3)


def test_every_rival_searches_and_a_course_can_be_run_again() -> None:
    from few_trial.contest import run
    from few_trial.results import RECORDED
    from few_trial.rivals import RIVALS
    from few_trial.surfaces import load

    surface = load(RECORDED["under"])
    for name, rival in RIVALS.items():
        if rival.decay:
            continue
        first, again = (run(name, surface, seed=3, trials=5, slots=2) for _ in range(2))
        assert first == again, name
        assert len(first.regrets) == 5
        assert min(first.regrets) >= -0.01
    hinted = run("FixNorm, default start", surface, seed=3, trials=1)
    assert hinted.first < run("random", surface, seed=3, trials=1).first


def test_made_up_surfaces_hold_their_best_inside_the_box() -> None:
    from few_trial.made_up import MADE_UP, MadeUp

    for name in MADE_UP:
        surface = MadeUp(name, 1)
        box = surface.crop(np.random.default_rng(1))
        middle = {knob: math.sqrt(box.low[knob] * box.high[knob]) for knob in surface.knobs}
        assert surface.truth([middle])[0] <= surface.best(box) + 1e-9


def test_the_pages_tables_are_those_of_the_kept_courses() -> None:
    from few_trial_pages import PAGE, filled

    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- table: ") == page.count("<!-- end -->") > 0
    assert filled(page) == page
