"""Optuna's storage as its only writer may use it: what has been read or written once is not read again.

``ask`` and ``tell`` look at a trial four or five times, and Optuna's own storage asks the database every time, since
others may have written. The dispatcher's lease says that nobody else does, so reads are answered from memory. Every
write still goes to the database at once and is remembered when it has succeeded; one that has not, or whose answer was
lost, has the study be read anew.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState, create_trial

__all__ = ["Draft", "Mirror"]


_DRAFT = -1  # id of a trial that is not stored yet


@dataclass(slots=True)
class Draft:
    """A trial that is being put together.

    Attributes:
        number: Its number, once it is stored; another than it had before if somebody else has created one meanwhile.
    """

    number: int = -1


class Mirror(BaseStorage):
    """A storage in front of Optuna's own, for one thread.

    Trials that it hands out are never changed: a write replaces them.
    """

    def __init__(self, storage: RDBStorage) -> None:
        """Knows nothing yet.

        Args:
            storage: Where everything is stored; nobody else writes to the studies that are used here.
        """
        self._backend = storage
        self._trials: dict[int, list[FrozenTrial]] = {}  # by study
        self._places: dict[int, tuple[int, int]] = {}  # study and number, by trial
        self._directions: dict[int, list[StudyDirection]] = {}
        self._is_drafting = False

    @contextmanager
    def drafting(self, study_id: int) -> Iterator[Draft]:
        """Keeps the trial that is created in the block in memory, and stores it at its end with all that it was given.

        In the block it looks like any other. If that fails, nothing of it is stored, or all if an answer was lost.
        """
        trials, draft = self._of(study_id), Draft()
        self._is_drafting = True
        try:
            yield draft
            made = trials[self._places[_DRAFT][1]]
        finally:
            self._is_drafting = False
            if self._places.pop(_DRAFT, None) is not None:
                trials.pop()
        draft.number = self._create(study_id, made).number

    def forget(self, study_id: int) -> None:
        """Has a study be read anew: somebody else may have written after all, or it is not needed any more."""
        self._trials.pop(study_id, None)
        for trial_id in [trial_id for trial_id, place in self._places.items() if place[0] == study_id]:
            del self._places[trial_id]

    def forget_all(self) -> None:
        """Has every study be read anew."""
        self._trials.clear()
        self._places.clear()

    def known(self, study_id: int) -> Sequence[FrozenTrial] | None:
        """What is remembered of a study, by number; None if nothing is. Asks no database; safe from any thread."""
        trials = self._trials.get(study_id)
        return [trial for trial in trials if trial._trial_id != _DRAFT] if trials is not None else None

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """By number."""
        trials = self._of(study_id)
        found = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As get_all_trials has it; a copy, since Optuna writes into what it gets here."""
        if trial_id not in self._places:
            return self._backend.get_trial(trial_id)
        study_id, number = self._places[trial_id]
        return _copied(self._of(study_id)[number])

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """Its id.

        Raises:
            KeyError: If there is no such trial.
        """
        trials = self._of(study_id)
        if not 0 <= trial_number < len(trials):
            raise KeyError(f"study {study_id} has no trial {trial_number}")
        return trials[trial_number]._trial_id

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Its id."""
        if not self._is_drafting:
            return self._create(study_id, template_trial)._trial_id
        trials = self._of(study_id)
        trial = _copied(template_trial) if template_trial is not None else create_trial(state=TrialState.RUNNING)
        trial.number, trial._trial_id = len(trials), _DRAFT
        self._places[_DRAFT] = (study_id, trial.number)
        trials.append(trial)
        return _DRAFT

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """A parameter, once."""
        known = (trial.distributions for trial in self._of(self._places[trial_id][0]))
        earlier = next((each[param_name] for each in known if param_name in each), None)
        with self._changing(trial_id) as changes:
            if trial_id != _DRAFT:
                self._backend._set_trial_param(trial_id, param_name, param_value_internal, distribution, earlier)
            value = distribution.to_external_repr(param_value_internal)
            changes.append(lambda trial: trial.params.update({param_name: value}))
            changes.append(lambda trial: trial.distributions.update({param_name: distribution}))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """A state and, with the last one, the result; False if it was not set."""
        with self._changing(trial_id) as changes:
            is_set = self._backend.set_trial_state_values(trial_id, state, values)
            if not is_set:
                return False

            def change(trial: FrozenTrial) -> None:
                trial.state = state
                if values is not None:
                    trial.values = [float(value) for value in values]
                if state is TrialState.RUNNING:
                    trial.datetime_start = datetime.now()
                if state.is_finished():
                    trial.datetime_complete = datetime.now()

            changes.append(change)
            return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """What was reported at a step; the last one counts."""
        with self._changing(trial_id) as changes:
            self._backend.set_trial_intermediate_value(trial_id, step, intermediate_value)
            changes.append(lambda trial: trial.intermediate_values.update({step: float(intermediate_value)}))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """An attribute; read back as JSON has it."""
        with self._changing(trial_id) as changes:
            if trial_id != _DRAFT:
                self._backend.set_trial_user_attr(trial_id, key, value)
            changes.append(lambda trial: trial.user_attrs.update({key: json.loads(json.dumps(value))}))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Likewise."""
        with self._changing(trial_id) as changes:
            if trial_id != _DRAFT:
                self._backend.set_trial_system_attr(trial_id, key, value)
            changes.append(lambda trial: trial.system_attrs.update({key: json.loads(json.dumps(value))}))

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Its id."""
        return self._backend.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """With all its trials."""
        self.forget(study_id)
        self._backend.delete_study(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """They never change."""
        if study_id not in self._directions:
            self._directions[study_id] = self._backend.get_study_directions(study_id)
        return self._directions[study_id]

    # Of studies nothing else is remembered: it is asked for once or twice in a study's life.

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Written through."""
        self._backend.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Written through."""
        self._backend.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """Read through."""
        return self._backend.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Read through."""
        return self._backend.get_study_name_from_id(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Read through."""
        return self._backend.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Read through."""
        return self._backend.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        """Read through."""
        return self._backend.get_all_studies()

    def remove_session(self) -> None:
        """Lets go of the calling thread's connection."""
        self._backend.remove_session()

    def _of(self, study_id: int) -> list[FrozenTrial]:
        """A study's trials; a number is an index."""
        if study_id not in self._trials:
            trials = sorted(self._backend.get_all_trials(study_id, deepcopy=False), key=lambda trial: trial.number)
            self._trials[study_id] = trials
            self._places.update({trial._trial_id: (study_id, trial.number) for trial in trials})
        return self._trials[study_id]

    def _create(self, study_id: int, template: FrozenTrial | None) -> FrozenTrial:
        """Stores a trial. Once: Optuna's own tries again after an error, and after a lost answer there would be two."""
        trials = self._of(study_id)
        with self._rereading_after_failure(study_id), _create_scoped_session(self._backend.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            row: Any = self._backend._get_prepared_new_trial(study_id, template, session)
            trial = _copied(template) if template is not None else create_trial(state=TrialState.RUNNING)
            trial.number, trial._trial_id, trial.datetime_start = row.number, row.trial_id, row.datetime_start
        if trial.number == len(trials):
            self._places[trial._trial_id] = (study_id, trial.number)
            trials.append(trial)
        else:  # a server that was suspended has created one meanwhile
            del self._trials[study_id]
            self._of(study_id)
        return trial

    @contextmanager
    def _rereading_after_failure(self, study_id: int) -> Iterator[None]:
        """Has the study be read anew if a write fails: it may have been made all the same."""
        try:
            yield
        except BaseException:
            self._trials.pop(study_id, None)
            raise

    @contextmanager
    def _changing(self, trial_id: int) -> Iterator[list[Callable[[FrozenTrial], object]]]:
        """Remembers a write that has succeeded, as changes to a copy of the trial; without any the study is reread."""
        study_id, number = self._places[trial_id]
        changes: list[Callable[[FrozenTrial], object]] = []
        with self._rereading_after_failure(study_id):
            yield changes
        if not changes:
            self._trials.pop(study_id, None)
            return
        trials = self._of(study_id)
        changed = _copied(trials[number])
        for change in changes:
            change(changed)
        trials[number] = changed


def _copied(trial: FrozenTrial) -> FrozenTrial:
    copied = copy.copy(trial)
    copied.params = dict(trial.params)
    copied.distributions = dict(trial.distributions)
    copied.user_attrs = dict(trial.user_attrs)
    copied.system_attrs = dict(trial.system_attrs)
    copied.intermediate_values = dict(trial.intermediate_values)
    return copied
