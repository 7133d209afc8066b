from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from fixnorm_core.tuning.belief import Belief, Observations, standardize
from fixnorm_core.tuning.shapes import Shapes

Array = npt.NDArray[np.float64]


def test_a_shape_is_flat_at_its_peak_and_falls_on_both_sides() -> None:
    shape = Shapes(
        peak=np.array([[0.5]]), width_below=np.array([[0.1]]), width_above=np.array([[1.0]]), power=np.array([[2.0]])
    )
    drop = shape.drop(np.array([[0.4], [0.5], [0.6]]))
    np.testing.assert_allclose(drop, [[1 - np.exp(-1), 0.0, 1 - np.exp(-0.01)]])


def test_only_the_upper_side_of_the_named_knobs_explains_a_divergence() -> None:
    shapes = Shapes.draw(500, knobs=2, rng=np.random.default_rng(0))
    corner = np.array([[1.2, 0.5]])
    above = shapes.drop_above(corner, knobs=np.array([True, False]))
    assert (above > 0).all()
    assert (above <= shapes.drop(corner)).all()
    assert (shapes.drop_above(np.array([[-0.1, 1.0]]), knobs=np.array([True, False])) == 0).all()


def test_standardizing_takes_out_unit_and_depth_of_what_is_hopeless() -> None:
    values = np.array([50.0, 49.0, 48.0, -1e9, np.nan])
    passed = ~np.isfinite(values)
    standard = standardize(values, passed_cliff=passed)
    np.testing.assert_allclose(standard.values, [0.0, -1 / 8, -2 / 8, -1.0, -1.0], atol=0.05)
    shifted = standardize(0.01 * values + 7.0, passed_cliff=passed)
    np.testing.assert_allclose(shifted.values, standard.values)
    assert shifted.scale == pytest.approx(0.01 * standard.scale)


@pytest.mark.parametrize("values", [[5.0, 5.0, 5.0], [np.nan, np.nan, np.inf], [1e308, -1e308, 0.0]])
def test_values_that_say_nothing_still_give_finite_gains(values: list[float]) -> None:
    belief = learn(np.array([[0.2, 0.2], [0.5, 0.5], [0.8, 0.8]]), np.array(values))
    assert np.isfinite(belief.gain(grid(), over=belief.incumbent())).all()
    assert np.isfinite(belief.noise)


def test_the_noise_of_repeated_points_is_found() -> None:
    rng = np.random.default_rng(0)
    points = np.repeat(rng.random((6, 2)), 4, axis=0)
    values = 100 * smooth(points) + 2.0 * rng.standard_normal(len(points))
    assert 1.0 < learn(points, values).noise < 4.0


def test_the_incumbent_is_the_peak_and_not_the_luckiest_point() -> None:
    points = grid()
    values = smooth(points) + 0.001 * np.random.default_rng(0).standard_normal(len(points))
    lucky = int(np.argmin(np.abs(points - [0.55, 0.95]).sum(axis=1)))
    values[lucky] = values.max() + 0.01
    belief = learn(points, values)
    assert np.abs(belief.incumbent() - [0.3, 0.6]).max() < 0.16


def test_imagining_a_point_takes_the_gain_away_around_it() -> None:
    belief = learn(np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1]]), np.array([0.6, 0.3, 0.2]))
    incumbent = belief.incumbent()
    gains = belief.gain(grid(), over=incumbent)
    best = grid()[np.argmax(gains)]
    imagined = belief.imagine(best[None])
    assert imagined.gain(best[None], over=incumbent)[0] < 0.5 * gains.max()


def test_regret_is_in_the_unit_of_the_values_and_shrinks_with_knowledge() -> None:
    few, many = np.random.default_rng(0).random((4, 2)), np.random.default_rng(0).random((30, 2))
    regrets = []
    for points, unit in ((few, 1.0), (few, 100.0), (many, 1.0)):
        belief = learn(points, unit * smooth(points))
        regrets.append(belief.regret(grid(), of=belief.incumbent()))
    assert regrets[1] == pytest.approx(100 * regrets[0])
    assert regrets[2] < 0.5 * regrets[0]


def smooth(points: Array) -> Array:
    values: Array = 0.8 - np.sum((points - [0.3, 0.6]) ** 2, axis=1)
    return values


def grid() -> Array:
    return np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9)), axis=-1).reshape(-1, 2)


def learn(points: Array, values: Array) -> Belief:
    observations = Observations(
        points=points,
        values=values,
        diverged=np.zeros(len(values), dtype=bool),
        cliff_knobs=np.array([True, False]),
    )
    return Belief.learn(observations, rng=np.random.default_rng(0))
