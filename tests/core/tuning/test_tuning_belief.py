from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.belief import Belief, Observations
from fixnorm_core.tuning.hints import Hints
from fixnorm_core.tuning.search import candidates
from fixnorm_core.tuning.shapes import Shapes
from fixnorm_core.tuning.units import Unit

Array = npt.NDArray[np.float64]
SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "fc_norm": FloatDistribution(0.25, 16.0, log=True),
}
AXES = Axes.of(SPACE)


def test_a_shape_is_flat_at_its_peak_and_falls_on_both_sides() -> None:
    one = Axes.of({"lr": SPACE["lr"]})
    shape = Shapes.draw(1, one, rng=np.random.default_rng(0))
    peak, below, above, power = (float(field[0, 0]) for field in (shape.peak, shape.below, shape.above, shape.power))
    drop = shape.drop(np.array([[peak - below], [peak], [peak + 0.1 * above]]))
    np.testing.assert_allclose(drop, [[1 - np.exp(-1), 0.0, 1 - np.exp(-(0.1**power))]], atol=1e-12)


def test_a_tilt_moves_the_peak_with_the_learning_rate() -> None:
    shapes = Shapes.draw(500, AXES, rng=np.random.default_rng(0))
    tilted = int(np.argmax(shapes.tilt[:, 1]))
    assert shapes.tilt[tilted, 1] > 0.5
    moved = shapes.peak[tilted] + np.array([1.0, shapes.tilt[tilted, 1]])
    along = Shapes.draw(500, AXES, rng=np.random.default_rng(0)).drop(np.array([moved, moved - [0.0, 1.0]]))[tilted]
    assert along[0] < along[1]


def test_only_the_upper_side_of_the_named_axes_explains_a_divergence() -> None:
    shapes = Shapes.draw(500, AXES, rng=np.random.default_rng(0))
    corner = np.array([[AXES.spans[0] + 1.0, 2.0]])
    above = shapes.drop_above(corner, cliffs=np.array([True, False]))
    assert (above > 0).all()
    assert (above <= shapes.drop(corner)).all()
    assert (shapes.drop_above(np.array([[-0.1, 4.0]]), cliffs=np.array([True, False])) == 0).all()


def test_a_hint_draws_most_peaks_near_it() -> None:
    hint = Hints(points=np.array([[2.0, 1.0]]), spreads=np.ones((1, 2)))
    near = [
        np.abs(Shapes.draw(2000, AXES, rng=np.random.default_rng(0), hints=given).peak - hint.points).max(axis=1) < 1.5
        for given in (None, hint)
    ]
    assert near[1].mean() > 2 * near[0].mean()


def test_each_of_several_hints_draws_as_many_peaks_as_near_as_it_says() -> None:
    hints = Hints(points=np.array([[1.0, 1.0], [8.0, 3.0]]), spreads=np.array([[0.01, 0.01], [0.1, 0.1]]))
    peaks = Shapes.draw(4000, AXES, rng=np.random.default_rng(0), hints=hints).peak
    away = np.abs(peaks[None] - hints.points[:, None])
    near = [(each < 3 * spread).all(axis=1) for each, spread in zip(away, hints.spreads, strict=True)]
    assert near[0].mean() == pytest.approx(0.42, abs=0.03)
    assert near[1].mean() == pytest.approx(0.42, abs=0.03)
    assert away[0][near[0]].std() < 0.2 * away[1][near[1]].std()


def test_a_hint_outside_the_range_draws_peaks_to_that_end() -> None:
    outside = Hints(points=np.array([[-3.0, 2.0]]), spreads=np.ones((1, 2)))
    peaks = Shapes.draw(2000, AXES, rng=np.random.default_rng(0), hints=outside).peak
    assert (peaks >= 0).all()
    assert (peaks[:, 0] == 0).mean() > 0.5


def test_the_best_category_of_a_shape_costs_nothing_and_the_others_something() -> None:
    axes = Axes.of({"a": CategoricalDistribution(["x", "y", "z"]), "b": CategoricalDistribution([1, 2])})
    drops = Shapes.draw(300, axes, rng=np.random.default_rng(0)).drop(
        np.array([[i, j] for i in range(3) for j in range(2)], dtype=float)
    )
    assert ((drops == 0).sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("values", "known"),
    [([0.3, 0.9], True), ([30.0, 90.0], True), ([-0.7, -0.1], True), ([-70.0, -10.0], True), ([3.0, -2.0], False)],
)
def test_accuracies_and_error_rates_are_recognized(values: list[float], known: bool) -> None:
    unit = Unit.of(np.array(values))
    assert unit.known == known
    if known:
        np.testing.assert_allclose(unit.shares(np.array(values)), [0.3, 0.9])
    np.testing.assert_allclose(unit.values(unit.shares(np.array(values))), values)


@pytest.mark.parametrize("values", [[5.0, 5.0, 5.0], [np.nan, np.nan, np.inf], [1e308, -1e308, 0.0], [0.0, 0.0, 0.0]])
def test_values_that_say_nothing_still_give_finite_surfaces(values: list[float]) -> None:
    belief = learn(np.array([[0.2, 0.2], [0.5, 0.5], [0.8, 0.8]]), np.array(values))
    draws = belief.draw(grid(), 50, rng=np.random.default_rng(1))
    assert np.isfinite(draws.values).all()
    assert np.isfinite(belief.noise)


def test_the_noise_of_repeated_points_is_found() -> None:
    rng = np.random.default_rng(0)
    points = np.repeat(rng.random((6, 2)), 4, axis=0)
    values = 100 * smooth(points) + 2.0 * rng.standard_normal(len(points))
    assert 1.0 < learn(points, values).noise < 4.0


def test_the_point_expected_to_be_best_is_the_peak_and_not_the_luckiest_point() -> None:
    points = grid()
    values = smooth(points) + 0.001 * np.random.default_rng(0).standard_normal(len(points))
    lucky = int(np.argmin(np.abs(points - [0.55, 0.95]).sum(axis=1)))
    values[lucky] = values.max() + 0.01
    best = points[int(np.argmax(learn(points, values).expected(points * AXES.spans)))]
    assert np.abs(best - [0.3, 0.6]).max() < 0.16


def test_imagining_a_point_leaves_less_to_learn_there() -> None:
    belief = learn(np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1]]), np.array([0.6, 0.3, 0.2]))
    point = np.array([[2.0, 3.0]])
    before, after = (
        one.draw(point, 400, rng=np.random.default_rng(1)).values.std() for one in (belief, belief.imagine(point))
    )
    assert after < 0.5 * before


def test_regret_is_in_the_unit_of_the_values_and_shrinks_with_knowledge() -> None:
    few, many = np.random.default_rng(0).random((4, 2)), np.random.default_rng(0).random((30, 2))
    regrets = []
    for points, unit in ((few, 1.0), (few, 100.0), (many, 1.0)):
        draws = learn(points, unit * smooth(points)).draw(grid() * AXES.spans, 200, rng=np.random.default_rng(1))
        regrets.append(draws.regrets.mean(axis=0).min())
    assert regrets[1] == pytest.approx(100 * regrets[0])
    assert regrets[2] < 0.5 * regrets[0]


def test_draws_agree_with_the_expected_values() -> None:
    belief = learn(grid()[::7], smooth(grid()[::7]))
    points = grid()[::5] * AXES.spans
    draws = belief.draw(points, 4000, rng=np.random.default_rng(1))
    np.testing.assert_allclose(draws.values.mean(axis=0), belief.expected(points), atol=0.004)


def test_every_kind_of_parameter_has_a_place_and_comes_back_as_it_was() -> None:
    axes = Axes.of(
        SPACE
        | {
            "batch": IntDistribution(8, 512, log=True),
            "dropout": FloatDistribution(0.0, 0.5, step=0.05),
            "blocks": IntDistribution(1, 9, step=2),
            "norm": CategoricalDistribution(["batch", None, 3]),
            "fixed": FloatDistribution(1.0, 1.0),
        }
    )
    assert axes.names == ("lr", "fc_norm", "batch", "dropout", "blocks", "norm")
    params = {"lr": 0.003, "fc_norm": 0.25, "batch": 96, "dropout": 0.35, "blocks": 7, "norm": None}
    assert axes.params(axes.point(params)) == pytest.approx(params)
    spread = axes.spread(np.random.default_rng(0).random((200, 6)))
    for point in spread:
        given = axes.params(point)
        np.testing.assert_allclose(axes.point(given), point, atol=1e-5)
    assert {axes.params(point)["norm"] for point in spread} == {"batch", None, 3}


@pytest.mark.parametrize("seed", range(3))
def test_the_corners_of_the_space_are_among_what_may_be_proposed(seed: int) -> None:
    points = candidates(AXES, AXES.spans[None] / 2, rng=np.random.default_rng(seed))
    for corner in ([0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]):
        assert np.isclose(points, AXES.spans * corner).all(axis=1).any()


def smooth(points: Array) -> Array:
    values: Array = 0.8 - np.sum((points - [0.3, 0.6]) ** 2, axis=1)
    return values


def grid() -> Array:
    return np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9)), axis=-1).reshape(-1, 2)


def learn(points: Array, values: Array) -> Belief:
    """The belief after ``values`` at ``points`` of the unit square."""
    observations = Observations(points=points * AXES.spans, values=values, diverged=np.zeros(len(values), dtype=bool))
    return Belief.learn(observations, AXES, rng=np.random.default_rng(0))
