"""Short runs before whole ones: which trials are stopped, and what the sampler makes of them."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import TrialState

from fixnorm_core.errors import SpecError
from fixnorm_core.spec import OptimizerSpec, PrunerName, SamplerName, SearchSpec, TrainingSpec
from fixnorm_core.tuning.attributes import CONFIRM, KIND, PRUNED_BECAUSE, RUNG
from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.belief import Belief, Observations
from fixnorm_core.tuning.choice import build_pruner, build_sampler, search_space
from fixnorm_core.tuning.history import History
from fixnorm_core.tuning.rungs import Rung
from fixnorm_core.tuning.sampler import FixNormSampler
from fixnorm_core.tuning.screening import ScreeningPruner

EPOCHS = 16
SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "fc_norm": FloatDistribution(0.25, 16.0, log=True),
}
AXES = Axes.of(SPACE)


def accuracy(lr: float, epoch: int) -> float:
    """Best at 0.03 after two epochs, at 0.1 after all of them."""
    share = epoch / EPOCHS
    best = 0.03 + 0.07 * max(0.0, share - 0.125) / 0.875
    return 0.1 + (0.1 + 0.5 * share) * math.exp(-(math.log(lr / best) ** 2) / 8.0)


def study_of(*, n_screened: int = 5, direction: str = "maximize") -> Study:
    return optuna.create_study(
        direction=direction,
        sampler=FixNormSampler(SPACE, seed=0, n_screened=n_screened),
        pruner=ScreeningPruner(n_steps=EPOCHS, share=0.125, n_screened=n_screened),
    )


def run(study: Study, *, sign: float = 1.0, kind: str | None = None) -> int:
    """Trains the next trial by its curve; returns the epochs it was given."""
    trial = study.ask(SPACE)
    if kind is not None:
        trial.set_user_attr(KIND, kind)
    for epoch in range(1, EPOCHS + 1):
        trial.report(sign * accuracy(trial.params["lr"], epoch), step=epoch)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    study.tell(trial, sign * accuracy(trial.params["lr"], EPOCHS))
    return EPOCHS


def test_the_first_trials_end_at_the_rung_and_later_ones_do_not() -> None:
    study = study_of()
    assert [run(study) for _ in range(7)] == [2] * 5 + [EPOCHS] * 2
    first = study.trials[0]
    assert first.user_attrs[RUNG] == 2
    assert "first 5 trials, which train for 2 of 16 epochs" in first.user_attrs[PRUNED_BECAUSE]


def test_the_first_trials_are_spread_over_the_learning_rate_alone() -> None:
    study = study_of()
    trials = [study.ask(SPACE) for _ in range(5)]
    steps = np.diff([math.log10(trial.params["lr"]) for trial in trials])
    np.testing.assert_allclose(steps, 1.0, atol=1e-5)
    assert {trial.params["fc_norm"] for trial in trials} == {2.0}


def test_the_first_whole_run_is_where_the_short_ones_say_and_not_where_none_would_begin() -> None:
    study, blind = study_of(), study_of(n_screened=0)
    for _ in range(5):
        run(study)
    chosen, unknown = (each.ask(SPACE).params["lr"] for each in (study, blind))
    assert abs(math.log(chosen / 0.1)) < 1.5
    assert unknown < 0.01


def test_minimizing_says_the_same() -> None:
    up, down = study_of(), study_of(direction="minimize")
    for _ in range(5):
        run(up)
        run(down, sign=-1.0)
    assert down.ask(SPACE).params == pytest.approx(up.ask(SPACE).params)


def test_a_short_run_says_where_the_peak_is_and_nothing_about_its_height() -> None:
    nothing = Observations(np.empty((0, 2)), np.empty(0), np.empty(0, dtype=bool))
    points = np.array([[AXES.spans[0] * share, AXES.spans[1] / 2] for share in (0.1, 0.3, 0.5, 0.7, 0.9)])
    rung = Rung(points, np.array([0.11, 0.15, 0.2, 0.15, 0.1]))
    blind, told = (Belief.learn(nothing, AXES, rng=np.random.default_rng(0), rung=given) for given in (None, rung))
    before, after = blind.expected(points), told.expected(points)
    assert int(after.argmax()) == 2
    assert after[2] - after[0] > 2 * (before[2] - before[0])
    assert after[2] > 0.5


def test_a_short_run_is_neither_an_observation_nor_a_point_to_keep_away_from() -> None:
    study = study_of()
    for _ in range(6):
        run(study)
    history = History.read(study, AXES)
    assert len(history.observations.values) == 1
    assert len(history.pending) == 0
    assert history.rung is not None
    assert len(history.rung.values) == 6  # the whole run is compared with the others where they were stopped
    assert history.rung.values[-1] == pytest.approx(accuracy(study.trials[-1].params["lr"], 2))


def test_a_confirming_run_is_not_stopped() -> None:
    assert run(study_of(), kind=CONFIRM) == EPOCHS


def test_without_a_learning_rate_the_first_trials_are_proposed_as_ever() -> None:
    space = {"k": FloatDistribution(0.0, 1.0), "norm": CategoricalDistribution(["batch", "group"])}
    screened, plain = (
        optuna.create_study(direction="maximize", sampler=FixNormSampler(space, seed=0, n_screened=count))
        for count in (5, 0)
    )
    assert screened.ask(space).params == plain.ask(space).params


def test_a_job_screens_only_where_no_first_point_is_known() -> None:
    search = SearchSpec(pruner=PrunerName.SCREENING)
    adamw = TrainingSpec(optimizer=OptimizerSpec(name="adamw"), epochs=EPOCHS)
    assert isinstance(build_pruner(search, training=adamw), ScreeningPruner)
    assert not isinstance(build_pruner(search, training=TrainingSpec(epochs=EPOCHS)), ScreeningPruner)
    study = optuna.create_study(direction="maximize", sampler=build_sampler(search, training=adamw, seed=0))
    space = search_space(search)
    low, high = search.space["lr"].low, search.space["lr"].high
    assert study.ask(space).params["lr"] == pytest.approx(low * (high / low) ** 0.125, rel=1e-4)
    one_epoch = adamw.model_copy(update={"epochs": 1})
    study = optuna.create_study(direction="maximize", sampler=build_sampler(search, training=one_epoch, seed=0))
    assert study.ask(space).params["lr"] > low * (high / low) ** 0.2


def test_only_the_sampler_that_learns_from_short_runs_may_have_them() -> None:
    with pytest.raises(ValueError, match="needs sampler fixnorm, and it is gp"):
        SearchSpec(pruner=PrunerName.SCREENING, sampler=SamplerName.GP)


@pytest.mark.parametrize("wrong", [{"n_steps": 0}, {"n_screened": -1}, {"share": 0.0}, {"share": 1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        ScreeningPruner(**({"n_steps": EPOCHS} | wrong))  # type: ignore[arg-type]
