from dataclasses import dataclass, field

import numpy as np
import pytest

from fixnorm_core.data.splits import Indices, Part, choose
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec


@dataclass
class Shipped:
    train: Indices
    others: dict[Part, Indices] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(str(label) for label in range(int(self.train.max()) + 1))

    def labels(self, part: Part) -> Indices | None:
        return self.train if part is Part.TRAIN else self.others.get(part)


UNEVEN = np.repeat(np.arange(4), [400, 200, 40, 10]).astype(np.int64)
FIRST_OF_TEST = [3, 13, 15, 27, 31, 33, 34, 38]
FIRST_OF_VALIDATION = [1, 6, 18, 21, 28, 36, 39, 46]


def indices(shipped: Shipped, part: Part, **fields: object) -> Indices:
    return choose(shipped, part, spec=DataSpec(**fields))[1]


def test_splits_share_out_every_image_once() -> None:
    parts = [indices(Shipped(UNEVEN), part) for part in Part]
    assert sorted(np.concatenate(parts)) == list(range(len(UNEVEN)))


def test_splits_are_stratified() -> None:
    test = indices(Shipped(UNEVEN), Part.TEST, test_fraction=0.1)
    assert np.bincount(UNEVEN[test]).tolist() == [40, 20, 4, 1]


def test_test_split_depends_on_nothing_but_its_seed_and_fraction() -> None:
    test = indices(Shipped(UNEVEN), Part.TEST)
    tuned = indices(Shipped(UNEVEN), Part.TEST, validation_fraction=0.5, train_limit=50, validation_limit=7)
    assert np.array_equal(test, tuned)
    assert not np.array_equal(test, indices(Shipped(UNEVEN), Part.TEST, split_seed=1))


def test_split_never_changes_between_releases() -> None:
    # Stored weights would otherwise be tested on images they were trained on
    assert indices(Shipped(UNEVEN), Part.TEST)[:8].tolist() == FIRST_OF_TEST
    assert indices(Shipped(UNEVEN), Part.VALIDATION)[:8].tolist() == FIRST_OF_VALIDATION


def test_shipped_parts_are_taken_whole() -> None:
    shipped = Shipped(UNEVEN, {Part.TEST: np.array([0, 1, 2, 3]), Part.VALIDATION: np.array([0, 0, 1])})
    assert choose(shipped, Part.TEST, spec=DataSpec())[0] is Part.TEST
    assert len(indices(shipped, Part.TEST)) == 4
    assert len(indices(shipped, Part.VALIDATION)) == 3
    assert len(indices(shipped, Part.TRAIN)) == len(UNEVEN)


def test_validation_comes_out_of_training_when_only_a_test_split_is_shipped() -> None:
    shipped = Shipped(UNEVEN, {Part.TEST: np.array([0, 1, 2, 3])})
    place, validation = choose(shipped, Part.VALIDATION, spec=DataSpec())
    assert place is Part.TRAIN
    assert sorted([*validation, *indices(shipped, Part.TRAIN)]) == list(range(len(UNEVEN)))


@pytest.mark.parametrize("limit", [4, 5, 17, 100, 333])
def test_limit_is_met_exactly_with_every_class(limit: int) -> None:
    chosen = indices(Shipped(UNEVEN), Part.TRAIN, train_limit=limit)
    assert len(chosen) == limit
    assert set(UNEVEN[chosen]) == {0, 1, 2, 3}
    assert set(chosen) <= set(indices(Shipped(UNEVEN), Part.TRAIN))


def test_limit_keeps_proportions() -> None:
    chosen = indices(Shipped(UNEVEN), Part.TRAIN, train_limit=104)
    whole = np.bincount(UNEVEN[indices(Shipped(UNEVEN), Part.TRAIN)])
    assert np.abs(np.bincount(UNEVEN[chosen]) - 104 * whole / whole.sum()).max() <= 1


def test_limit_above_what_there_is_takes_all() -> None:
    assert len(indices(Shipped(UNEVEN), Part.TRAIN, train_limit=10**6)) == len(indices(Shipped(UNEVEN), Part.TRAIN))


def test_validation_limit_may_be_below_the_number_of_classes() -> None:
    assert len(indices(Shipped(UNEVEN), Part.VALIDATION, validation_limit=2)) == 2


def test_train_limit_below_the_number_of_classes_is_refused() -> None:
    with pytest.raises(DataError, match="train_limit is 3, below the 4 classes"):
        indices(Shipped(UNEVEN), Part.TRAIN, train_limit=3)


def test_a_class_of_one_stays_in_training() -> None:
    labels = np.array([0] * 10 + [1], dtype=np.int64)
    assert 10 in indices(Shipped(labels), Part.TRAIN)


def test_nothing_left_to_validate_on_is_refused() -> None:
    with pytest.raises(DataError, match="leaves no images for its validation split"):
        indices(Shipped(np.array([0, 0, 1, 1])), Part.VALIDATION)


def test_large_split_seed_is_taken() -> None:
    assert len(indices(Shipped(UNEVEN), Part.TEST, split_seed=2**40))
