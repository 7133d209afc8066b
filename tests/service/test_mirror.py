from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.engine.default import DefaultDialect

from fixnorm_core.tuning.sampler import FixNormSampler
from service.studies.mirror import Mirror
from service.studies.storage import close_storage, open_mirror, open_writing_storage

SPACE = {"lr": FloatDistribution(1e-4, 1.0, log=True), "fc_norm": FloatDistribution(0.25, 16.0, log=True)}


@pytest.fixture
def mirror(database_url: str) -> Iterator[Mirror]:
    storage = open_mirror(database_url)
    yield storage
    close_storage(storage)


@pytest.fixture
def others(database_url: str, mirror: Mirror) -> Iterator[BaseStorage]:
    """What another process sees and does."""
    storage = open_writing_storage(database_url)
    yield storage
    close_storage(storage)


def what_matters(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """All of the trials, as text since NaN equals nothing, less the times."""
    times = ("datetime_start", "datetime_complete")
    return [
        {name: repr(value) for name, value in vars(trial).items() if name.strip("_") not in times} for trial in trials
    ]


def run_study(storage: BaseStorage, sampler: BaseSampler) -> optuna.Study:
    study = optuna.create_study(storage=storage, direction="maximize", sampler=sampler)
    study.enqueue_trial({"lr": 0.1, "fc_norm": 1.0})
    for number in range(12):
        trial = study.ask(SPACE)
        trial.set_user_attr("notes", {"seed": number, "curve": (0.5, 1), "none": None})
        for epoch in range(1, 3):
            trial.report(math.nan if number == 3 else trial.params["lr"] / epoch, step=epoch)
        storage.set_trial_intermediate_value(trial._trial_id, 2, 0.25)  # a resumed trial tells its epochs again
        match number % 4:
            case 0:
                study.tell(trial, trial.params["lr"])
            case 1:
                study.tell(trial, state=TrialState.PRUNED)
            case 2:
                study.tell(trial, math.inf if number == 2 else 0.5)
            case 3:
                study.tell(trial, state=TrialState.FAIL)
    template = create_trial(
        state=TrialState.RUNNING, user_attrs={"kind": "confirm"}, system_attrs={"fixed_params": {"lr": 0.3}}
    )
    storage.create_new_trial(study._study_id, template)
    study.ask(SPACE)
    return study


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "sampler",
    [
        lambda: FixNormSampler(SPACE, seed=1),
        lambda: RandomSampler(seed=1),
        lambda: TPESampler(seed=1, n_startup_trials=3),
        lambda: CmaEsSampler(seed=1),
        lambda: QMCSampler(seed=1, scramble=True),
    ],
    ids=["fixnorm", "random", "tpe", "cmaes", "qmc"],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_samplers_propose_as_on_optunas_storage_and_what_is_remembered_is_what_is_stored(
    mirror: Mirror, others: BaseStorage, sampler: Any
) -> None:
    mine, plain = run_study(mirror, sampler()), run_study(others, sampler())
    remembered = what_matters(mirror.get_all_trials(mine._study_id))
    assert remembered == what_matters(others.get_all_trials(mine._study_id))
    assert [trial.params for trial in mine.trials] == [trial.params for trial in plain.trials]
    mirror.forget(mine._study_id)
    assert remembered == what_matters(mirror.get_all_trials(mine._study_id))


def test_trials_that_were_handed_out_stay_as_they_were(mirror: Mirror) -> None:
    study = optuna.create_study(storage=mirror, direction="maximize", sampler=RandomSampler(seed=1))
    trial = study.ask(SPACE)
    before = mirror.get_all_trials(study._study_id, deepcopy=False)
    study.tell(trial, 0.5)
    assert before[0].state is TrialState.RUNNING
    assert mirror.get_all_trials(study._study_id, deepcopy=False)[0].state is TrialState.COMPLETE


@pytest.mark.parametrize("written", [True, False], ids=["the answer was lost", "it failed"])
def test_after_a_write_that_failed_the_study_is_read_anew(
    mirror: Mirror, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=mirror, direction="maximize", sampler=RandomSampler(seed=1))
    trial = study.ask(SPACE)
    real = mirror._backend.set_trial_state_values

    def failing(*arguments: Any) -> bool:
        if written:
            real(*arguments)
        raise ConnectionError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(mirror._backend, "set_trial_state_values", failing)
        with pytest.raises(ConnectionError):
            study.tell(trial, 0.5)
    expected = TrialState.COMPLETE if written else TrialState.RUNNING
    assert mirror.get_all_trials(study._study_id)[0].state is expected


def test_a_trial_that_a_suspended_server_created_is_found_with_the_next_one(
    mirror: Mirror, others: BaseStorage
) -> None:
    study = optuna.create_study(storage=mirror, direction="maximize", sampler=RandomSampler(seed=1))
    study.ask(SPACE)
    others.create_new_trial(study._study_id)
    assert study.ask(SPACE).number == 2
    assert [trial.number for trial in mirror.get_all_trials(study._study_id)] == [0, 1, 2]
    assert [bool(trial.params) for trial in mirror.get_all_trials(study._study_id)] == [True, False, True]


def test_a_drafted_trial_is_stored_whole_in_one_transaction(mirror: Mirror, others: BaseStorage) -> None:
    study = optuna.create_study(storage=mirror, direction="maximize", sampler=RandomSampler(seed=1))
    assert mirror.get_all_trials(study._study_id) == []
    commits: list[object] = []
    event.listen(mirror._backend.engine, "commit", commits.append)
    with mirror.drafting(study._study_id) as draft:
        trial = study.ask(SPACE)
        trial.set_user_attr("seed", 3)
        assert trial.number == 0
        assert others.get_all_trials(study._study_id) == []
        assert mirror.known(study._study_id) == []
    assert len(commits) == 1
    assert draft.number == 0
    stored = others.get_all_trials(study._study_id)
    assert stored[0].state is TrialState.RUNNING
    assert stored[0].user_attrs == {"seed": 3}
    assert stored[0].params == trial.params
    assert what_matters(stored) == what_matters(mirror.get_all_trials(study._study_id))
    study.tell(0, 0.5)


def test_of_a_draft_that_fails_nothing_is_stored(mirror: Mirror, others: BaseStorage) -> None:
    study = optuna.create_study(storage=mirror, direction="maximize", sampler=RandomSampler(seed=1))
    with pytest.raises(TypeError, match="not JSON serializable"), mirror.drafting(study._study_id):
        study.ask(SPACE).set_user_attr("notes", object())
    assert mirror.get_all_trials(study._study_id) == others.get_all_trials(study._study_id) == []
    assert study.ask(SPACE).number == 0


@pytest.mark.parametrize("written", [True, False], ids=["the answer was lost", "it failed"])
def test_a_draft_whose_write_fails_is_there_once_or_not_at_all(
    mirror: Mirror, others: BaseStorage, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=mirror, direction="maximize", sampler=RandomSampler(seed=1))
    assert mirror.get_all_trials(study._study_id) == []
    real = DefaultDialect.do_commit

    def failing(dialect: DefaultDialect, connection: Any) -> None:
        if written:
            real(dialect, connection)
        raise dialect.loaded_dbapi.OperationalError("no answer")  # type: ignore[attr-defined]

    with monkeypatch.context() as patched:
        patched.setattr(DefaultDialect, "do_commit", failing)
        with pytest.raises(StorageInternalError), mirror.drafting(study._study_id):
            study.ask(SPACE)
    stored = others.get_all_trials(study._study_id)
    assert len(stored) == int(written)
    assert what_matters(stored) == what_matters(mirror.get_all_trials(study._study_id))


def test_a_draft_tells_when_a_suspended_server_has_created_a_trial_meanwhile(
    mirror: Mirror, others: BaseStorage
) -> None:
    study = optuna.create_study(storage=mirror, direction="maximize", sampler=RandomSampler(seed=1))
    with mirror.drafting(study._study_id) as draft:
        assert study.ask(SPACE).number == 0
        others.create_new_trial(study._study_id)
    assert draft.number == 1
    assert [bool(trial.params) for trial in mirror.get_all_trials(study._study_id)] == [False, True]


def test_a_trial_that_does_not_exist_is_a_key_error(mirror: Mirror) -> None:
    study = optuna.create_study(storage=mirror, direction="maximize")
    with pytest.raises(KeyError):
        mirror.get_trial_id_from_study_id_trial_number(study._study_id, 0)
    with pytest.raises(KeyError):
        mirror.set_trial_user_attr(99, "a", 1)
    with pytest.raises(KeyError):
        mirror.get_trial(99)
