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


@pytest.mark.parametrize("seed", range(3))
def test_made_up_surfaces_keep_their_best_point_in_every_cropped_box(seed: int) -> None:
    from few_trial.made_up import MADE_UP, MadeUp
    from few_trial.surfaces import Box

    whole = Box({"lr": 1e-4, "fc_norm": 0.25}, {"lr": 1.0, "fc_norm": 25.0})
    for name in MADE_UP:
        surface = MadeUp(name, seed)
        cropped = surface.crop(np.random.default_rng(seed))
        assert surface.best(cropped) == pytest.approx(surface.best(whole), abs=0.002), name
        assert math.prod(cropped.high[knob] / cropped.low[knob] for knob in surface.knobs) < 1e6


def test_the_pages_tables_are_those_of_the_kept_courses() -> None:
    from few_trial_pages import PAGE, filled

    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- table: ") == page.count("<!-- end -->") > 0
    assert filled(page) == page


def test_the_live_pages_table_is_that_of_the_kept_jobs() -> None:
    from live_proof import PAGE, filled

    page = PAGE.read_text(encoding="utf-8")
    assert "<!-- table: " in page
    assert filled(page) == page


def test_confirming_reports_every_scheme_of_the_same_study_and_the_luckiest_run_as_what_it_was() -> None:
    from confirming import RULES, SCHEMES, study_outcomes

    outcomes, again = (study_outcomes(("random", "under", 1, 6)) for _ in range(2))
    assert {(k, r) for k, r, _ in outcomes} == set(SCHEMES)
    assert {rule for _, _, rule in outcomes} == set(RULES)
    assert min(outcome.regret for outcome in outcomes.values()) > -0.01
    assert outcomes[1, 0, "luckiest"].bias >= outcomes[1, 0, "posterior"].bias
    assert [one.regret for one in outcomes.values()] == [one.regret for one in again.values()]
    assert math.isfinite(outcomes[1, 2, "posterior"].error)


def test_a_parent_begins_its_childs_study_where_it_was_best(monkeypatch: pytest.MonkeyPatch) -> None:
    import warm_start

    monkeypatch.setattr(warm_start, "TRIALS", 2)
    monkeypatch.setattr(warm_start, "PARENT_TRIALS", 3)
    warm_start.parent.cache_clear()
    misled = warm_start.course(("misled: lr 30 times too high", "under", 3))
    default = warm_start.course(("default start", "under", 3))
    warm_start.parent.cache_clear()
    assert default.first < 2.0 < misled.first
    assert default.near == 1 < misled.near


def test_a_replayed_study_spends_every_epoch_unless_a_pruner_stops_it() -> None:
    import early_stopping
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    surface = early_stopping.Surface(early_stopping.SURFACES / "under.json")
    whole, cut = (
        early_stopping.replay(surface, "TPE", pruner, seed=0)
        for pruner in (NopPruner(), SuccessiveHalvingPruner(min_resource=1, reduction_factor=2))
    )
    assert whole.epochs == whole.whole == early_stopping.TRIALS * surface.epochs
    assert whole.pruned == 0 < cut.pruned
    assert cut.epochs < whole.epochs
