from __future__ import annotations

import optuna
import pytest
from optuna.distributions import FloatDistribution

from fixnorm_core.errors import SpecError
from fixnorm_core.spec import Method, OptimizerSpec, Range, SamplerName, SearchSpec, TrainingSpec
from fixnorm_core.tuning import choice
from fixnorm_core.tuning.choice import build_sampler, default_start, search_space
from fixnorm_core.tuning.sampler import FixNormSampler

START = {"lr": 0.016, "fc_norm": 4.0}


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("name", SamplerName)
def test_every_sampler_runs_every_method(name: SamplerName, method: Method) -> None:
    search = SearchSpec(method=method, sampler=name)
    space = search_space(search)
    study = optuna.create_study(direction="maximize", sampler=build_sampler(search, training=TrainingSpec(), seed=0))
    for number in range(6):
        trial = study.ask(space)
        assert trial.params.keys() == search.space.keys()
        assert all(value in search.space[knob] for knob, value in trial.params.items())
        study.tell(trial, -abs(trial.params["lr"] - 0.1) - 0.01 * number)


def test_the_space_is_the_jobs_ranges_on_a_log_scale() -> None:
    search = SearchSpec(space={"lr": Range(low=0.001, high=0.1)})
    assert search_space(search) == {
        "lr": FloatDistribution(0.001, 0.1, log=True),
        "fc_norm": FloatDistribution(0.25, 16.0, log=True),
    }


def test_the_first_point_is_the_jobs_own_before_the_measured_one() -> None:
    own = SearchSpec(start={"lr": 0.5, "fc_norm": 1.0})
    assert first_point(own, TrainingSpec()) == pytest.approx(own.start)
    assert first_point(SearchSpec(), TrainingSpec()) == pytest.approx(START)
    assert first_point(SearchSpec(), None)["lr"] != pytest.approx(START["lr"])


@pytest.mark.parametrize(
    ("training", "lr"),
    [
        (TrainingSpec(), 0.016),
        (TrainingSpec(weight_norm=4.0), 0.256),
        (TrainingSpec(optimizer=OptimizerSpec(momentum=0.0)), 0.16),
        (TrainingSpec(optimizer=OptimizerSpec(momentum=0.95)), 0.008),
    ],
)
def test_the_default_start_keeps_the_effective_learning_rate(training: TrainingSpec, lr: float) -> None:
    assert default_start(SearchSpec(), training=training) == pytest.approx({"lr": lr, "fc_norm": 4.0})


@pytest.mark.parametrize(
    ("search", "training"),
    [
        (SearchSpec(method=Method.WEIGHT_DECAY), TrainingSpec()),
        (SearchSpec(), TrainingSpec(weight_norm="init")),
        (SearchSpec(), TrainingSpec(optimizer=OptimizerSpec(name="adamw"))),
        (SearchSpec(space={"lr": Range(low=0.02, high=1.0)}), TrainingSpec()),
        (SearchSpec(space={"fc_norm": Range(low=5.0, high=16.0)}), TrainingSpec()),
    ],
)
def test_there_is_no_default_start_where_nothing_was_measured(search: SearchSpec, training: TrainingSpec) -> None:
    assert default_start(search, training=training) is None


def test_a_sampler_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    with pytest.raises(SpecError, match=r"torch.*\[training\]"):
        build_sampler(SearchSpec(sampler=SamplerName.GP), seed=0)


def first_point(search: SearchSpec, training: TrainingSpec | None) -> dict[str, float]:
    sampler = build_sampler(search, training=training, seed=0)
    assert isinstance(sampler, FixNormSampler)
    return optuna.create_study(sampler=sampler).ask(search_space(search)).params
