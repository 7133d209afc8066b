"""The report as one HTML file, from the views of a job in every state and from studies of every shape."""

from __future__ import annotations

import json
import re
from typing import Any

import optuna
import pytest
from counted import PETS
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial
from reported import RUN, SPACE, TRIALS, epoch, page, study_of
from standin import best, job, trial

from fixnorm_core.spec import DataSpec, JobSpec, Method, SearchSpec, TrainingSpec
from service.reporting.charts import round_ticks
from service.reporting.classes import confusion_chart
from service.reporting.diagnostics import diagnostic_charts
from service.reporting.figures import curves_chart
from service.reporting.optuna_charts import history_chart, importance_chart, knobs_of, slice_chart
from service.reporting.rows import result_rows
from service.reporting.story import what_was_tried, why_it_stopped
from service.schemas import JobState, TrialState, TrialView

DONE = [each for each in TRIALS if each.state is TrialState.COMPLETE][:3]


def charts(text: str) -> dict[str, dict[str, Any]]:
    (stored,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text, re.S)
    found: dict[str, dict[str, Any]] = json.loads(stored)
    return found


def words(text: str) -> str:
    """What a reader sees of a page."""
    shown = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", text, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", shown).split())


def test_a_page_names_no_address_and_is_the_same_each_time() -> None:
    text = page(found=best(), run=RUN, history=[epoch(1), epoch(2)])
    assert text == page(found=best(), run=RUN, history=[epoch(1), epoch(2)])
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", text)
    without_plotly = re.sub(r'id="plotly">.*?</script>', "", text, flags=re.S)
    assert "http" not in re.sub(r"http-equiv", "", without_plotly)
    assert text.count('id="plotly"') == 1


def test_a_page_takes_two_megabytes_and_one_without_charts_next_to_nothing() -> None:
    assert 1_900_000 < len(page(found=best())) < 2_200_000
    assert len(page(JobState.QUEUED, (), found=None)) < 40_000


@pytest.mark.parametrize("state", JobState)
def test_a_job_in_any_state_says_where_it_is_and_why(state: JobState) -> None:
    text = words(page(state, found=best(), reason="because of that"))
    assert f"digits {state.lower()}" in text
    assert "because of that." in text
    assert "7 trials of small_resnet on digits, " in text
    assert "6 at points that sampler fixnorm proposed and 1 to confirm the best with new seeds" in text
    assert "Of these, 1 diverged, 1 failed, 1 still running. 1 of at most 12 trials spent." in text


def test_why_it_stopped_is_told_once() -> None:
    over = "No point is expected to gain more."
    assert why_it_stopped(job(JobState.SUCCEEDED, reason=over, stop_reason=over)) == f"It stopped: {over}"
    confirming = why_it_stopped(job(JobState.RUNNING, reason="confirming", stop_reason=over))
    assert confirming == f"It goes on: confirming. The search is over: {over}"


def test_a_job_without_a_trial_has_a_report_without_charts() -> None:
    text = page(JobState.QUEUED, (), found=None, reason="needs 2 GPUs, 1 free")
    assert "No trial has begun." in words(text)
    assert "None: no trial is complete." in words(text)
    assert "It has not begun: needs 2 GPUs, 1 free." in words(text)
    assert 'id="charts"' not in text
    assert "fixnorm-tune submit job.yaml" in words(text)


def test_a_job_that_failed_at_its_only_trial_says_so() -> None:
    only = (trial(0, TrialState.FAILED, curve=(), reason="ModelError: <no> such layer"),)
    text = page(JobState.FAILED, only, found=None, reason="1 trial in a row has failed")
    assert "It failed: 1 trial in a row has failed." in words(text)
    assert "ModelError: &lt;no&gt; such layer" in text
    told = what_was_tried(job(JobState.FAILED), only)
    assert told.startswith("1 trial of small_resnet on digits, ")
    assert told.endswith("Of these, 1 failed. 1 of at most 12 trials spent.")


def test_one_complete_trial_is_drawn_with_the_belief_and_says_it_has_no_rival() -> None:
    text = page(found=best(params=dict(TRIALS[0].params), trials=(0,), runs=1, confirmed=False), trials=TRIALS[:1])
    kinds = [trace["type"] for chart in charts(text).values() for trace in chart["data"]]
    assert "contour" in kinds
    assert "There is no other point to compare it with." in words(text)
    assert "unconfirmed" in words(text)


def test_the_result_tells_error_confirming_runs_rival_and_test_accuracy() -> None:
    rival = best(params={"lr": 0.5, "fc_norm": 1.0}, validation_accuracy=0.98, runs=1)
    text = words(page(found=best(runner_up=rival, told_apart=False)))
    assert "98.26 % ± 0.35 %" in text
    assert "Confirmed by 3 runs with seeds that chose nothing" in text
    assert "the two cannot be told apart" in text
    assert "97.50 % 360 images; the weights of trial 1" in text


def test_runs_that_disagree_are_told_and_the_kept_runs_own_accuracy() -> None:
    unsteady = best(weights_accuracy=0.98, run_accuracies=(0.98, 0.77, 0.73), disagree=True)
    text = words(page(found=unsteady))
    assert "Runs disagree: 98.00 %, 77.00 %, 73.00 % with nothing but the seed changed" in text
    assert "the weights of trial 1, whose validation accuracy is 98.00 %" in text
    assert "Runs disagree" not in words(page(found=best()))
    told = dict(result_rows(unsteady))
    assert told["runs disagree"] == unsteady.disagreement
    assert told["test accuracy"].startswith("97.50 % (360 images; the weights of trial 1, whose")


def test_a_point_that_was_not_confirmed_and_of_which_more_is_expected_is_named() -> None:
    rival = best(params={"lr": 0.5, "fc_norm": 1.0}, validation_accuracy=0.99, runs=1, confirmed=False)
    doubted = best(confirmed=True, expected_accuracy=0.81, told_apart=False)
    for expected, is_doubted in ((0.86, True), (0.8, False), (None, False)):
        other = rival.model_copy(update={"expected_accuracy": expected})
        text = words(page(found=doubted.model_copy(update={"runner_up": other})))
        assert ("the sampler now expects more of it, 86.00 % against 81.00 %" in text) is is_doubted
    confirmed = rival.model_copy(update={"expected_accuracy": 0.86, "confirmed": True})
    assert "now expects more" not in words(page(found=doubted.model_copy(update={"runner_up": confirmed})))


def test_classes_are_told_weakest_first_and_drawn_where_the_matrix_is_whole_and_can_be_read() -> None:
    text = page(found=best(), classes=PETS)
    assert "hare 10 60.00 % 100.00 % dog (4) Abyssinian cat of Bulwer Street 20 85.00 % 89.47 % dog (3) dog" in words(
        text
    )
    drawn = [chart for chart in charts(text).values() if chart["data"][0]["type"] == "heatmap"]
    assert [chart["data"][0]["z"] for chart in drawn] == [
        [[85, 15, 0, 0], [10, 90, 0, 0], [0, 40, 60, 0], [0, 0, 0, 0]]
    ]
    missing = PETS.model_copy(update={"confusions": PETS.confusions[:1]})
    many = PETS.model_copy(
        update={"classes": tuple(PETS.classes[0].model_copy(update={"name": f"{n}"}) for n in range(21))}
    )
    assert confusion_chart(missing) is None
    assert confusion_chart(many) is None
    assert "Classes on the test split" not in words(page(found=best()))


def test_surface_curves_history_importance_and_slices_are_drawn() -> None:
    text = page(found=best(params=dict(TRIALS[1].params)))
    drawn = charts(text)
    headings = re.findall(r"<h[23][^>]*>([^<]+)</h[23]>", text)
    for title in ("Accuracy over lr and fc_norm", "Learning curves", "Every trial in order", "Accuracy over lr"):
        assert title in headings
    assert "What the accuracy depends on most" in headings
    assert len(drawn) == text.count('class="chart"') == 6
    surface, curves, history, importance, *_ = drawn.values()
    assert surface["data"][0]["type"] == "contour"
    assert {"complete", "running", "diverged", "failed", "best point"} <= {trace["name"] for trace in surface["data"]}
    marks = next(trace for trace in surface["data"] if trace["name"] == "complete")["marker"]
    rims = dict(zip(marks["color"], marks["line"]["color"], strict=True))
    assert rims[max(rims)] == "#222222"  # yellow, on what may be yellow too
    assert rims[min(rims)] == "#ffffff"
    assert len(curves["data"]) == len(TRIALS)
    assert [len(trace["y"]) for trace in history["data"] if trace["mode"] == "markers"] == [
        5
    ]  # those that ended with a value
    assert sum(importance["data"][0]["x"]) == pytest.approx(1.0)


def test_the_best_runs_mechanisms_are_drawn_and_told() -> None:
    history = [epoch(1), epoch(2), epoch(3)]
    text = page(found=best(), run=RUN, history=history)
    titles = diagnostic_charts(history)
    assert list(titles) == ["Rotation per step, rad", "Effective learning rate", "Norm of the head", "Feature norm"]
    lines = {trace["name"]: trace["y"] for trace in titles["Norm of the head"]["data"]}
    assert lines == {"norm": [3.0, 4.0, 5.0], "its bound": [4.0, 4.0, 4.0]}
    assert all(title in text for title in titles)
    assert "cross-boundary risk 7.34 %" in words(text)
    assert "norm of the head 4 5" in words(text)
    assert "Diagnostics" not in page(found=best(), run=RUN, history=[epoch(1, diagnostics=None)])


def test_a_head_without_a_bound_has_no_line_for_it() -> None:
    lines = diagnostic_charts([epoch(1, bound=None), epoch(2, bound=None)])["Norm of the head"]["data"]
    assert [line["name"] for line in lines] == ["norm"]


def test_data_environment_and_the_way_to_run_it_again_are_told() -> None:
    spec = JobSpec(seed=7, data=DataSpec(train_limit=500), training=TrainingSpec(epochs=5, weight_norm=2.0))
    text = words(page(found=best(), run=RUN, spec=spec))
    for fact in (
        "training images 1151",
        "validation images 287",
        "classes 10",
        "data.train_limit 500",
        "test images 360",
    ):
        assert fact in text
    for fact in ("device of the best run cpu", "torch 2.13.0", "python 3.11.9", "optuna (server) 5.0.0"):
        assert fact in text
    assert "python (server)" not in text
    assert "With seed 7" in text
    assert "weight_norm: 2.0" in text
    assert "weight_norm=2.0" in text
    assert "seed: 7" in text


def test_a_hostile_name_and_reason_are_words() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"
    spec = JobSpec(name=evil[:100])
    text = page(JobState.FAILED, found=best(), name=evil, reason=evil, spec=spec)
    assert "<script>alert" not in text
    assert "<img" not in re.sub(r'id="plotly">.*?</script>', "", text, flags=re.S)
    assert "{{ 7 * 7 }}" in text


def test_one_finished_trial_has_a_surface_of_what_is_expected_and_none_has_empty_axes_of_percent() -> None:
    alone = TRIALS[1:2]
    surface, *_ = charts(page(found=best(params=dict(alone[0].params)), trials=alone)).values()
    belief = surface["data"][0]
    assert belief["zmin"] == pytest.approx(min(map(min, belief["z"])), abs=0.01)
    assert belief["zmax"] - belief["zmin"] > 5
    failed, *_ = charts(page(JobState.FAILED, TRIALS[3:4], found=None)).values()
    assert [trace["name"] for trace in failed["data"]] == ["failed"]
    assert curves_chart(TRIALS[3:4], best=None)["layout"]["yaxis"]["range"] == [0, 100]


def test_accuracies_that_are_nearly_alike_look_so_and_the_color_bar_has_round_numbers() -> None:
    near = [each.model_copy(update={"validation_accuracy": 0.9991 + 0.0003 * place}) for place, each in enumerate(DONE)]
    surface, *_ = charts(page(found=best(params=dict(near[0].params)), trials=near)).values()
    marks = next(trace for trace in surface["data"] if trace["name"] == "complete")["marker"]
    assert marks["cmax"] - marks["cmin"] == pytest.approx(2.0)
    assert marks["cmax"] == pytest.approx(max(marks["color"]), abs=0.1)
    bar = surface["data"][0]["colorbar"]
    assert bar["tickvals"] == [98.0, 98.5, 99.0, 99.5]
    assert bar["ticktext"] == ["98", "98.5", "99", "99.5"]


@pytest.mark.parametrize("high", [7e-2, 0.9, 2.0, 4.9, 12.0, 37.0, 100.0])
def test_ticks_are_a_few_round_numbers_of_the_span(high: float) -> None:
    ticks = round_ticks(0.013, high)
    assert 3 <= len(ticks) <= 9
    assert 0.013 <= ticks[0] < ticks[-1] <= high
    assert all(len(f"{tick:g}".replace("0", "").replace(".", "")) <= 2 for tick in ticks)


def test_weight_decays_two_knobs_have_a_surface_too() -> None:
    space = {"lr": SPACE["lr"], "weight_decay": FloatDistribution(1e-6, 1e-1, log=True)}
    trials = tuple(
        trial(number, params={"lr": 0.01 * (number + 1), "weight_decay": 1e-4}, validation_accuracy=0.8 + number / 100)
        for number in range(4)
    )
    spec = JobSpec(search=SearchSpec(method=Method.WEIGHT_DECAY, sampler="tpe"))
    text = page(
        found=best(params=dict(trials[3].params)), trials=trials, spec=spec, study=study_of(trials, space), history=()
    )
    assert "Accuracy over lr and weight_decay" in text
    assert "weight_decay=0.0001" in words(text)


WIDE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "depth": IntDistribution(1, 9),
    "optimizer": CategoricalDistribution(("sgd", "<b>adamw</b>")),
    "<i>odd</i>": FloatDistribution(0.0, 1.0),
}


def test_a_study_of_many_kinds_of_knobs_is_drawn_knob_by_knob() -> None:
    study = optuna.create_study(direction="maximize")
    for number in range(8):
        params = {"lr": 0.001 * (number + 1), "depth": number + 1, "optimizer": ("sgd", "<b>adamw</b>")[number % 2]}
        params["<i>odd</i>"] = number / 8
        study.add_trial(create_trial(value=0.5 + number / 20, params=params, distributions=WIDE))
    assert knobs_of(study.trials) == {"lr": True, "depth": True, "optimizer": False, "<i>odd</i>": True}
    for knob in WIDE:
        chart = slice_chart(study, knob)
        assert chart is not None
        assert len(chart["data"][0]["x"]) == 8
    odd = slice_chart(study, "<i>odd</i>")
    assert odd is not None
    assert odd["layout"]["xaxis"]["title"]["text"] == "&lt;i&gt;odd&lt;/i&gt;"
    importance = importance_chart(study)
    assert importance is not None
    assert len(importance["data"][0]["y"]) == 4
    assert slice_chart(study, "fc_norm") is None


def test_a_page_shows_knobs_beyond_the_two_and_values_that_are_no_numbers() -> None:
    wide = tuple(
        TrialView.model_construct(
            **{**dict(trial(number)), "params": {"lr": 0.01 * (number + 1), "fc_norm": 1.0, "optimizer": "ad<amw"}}
        )
        for number in range(5)
    )
    space = SPACE | {"optimizer": CategoricalDistribution(("sgd", "ad<amw"))}
    text = page(found=best(), trials=wide, study=study_of(wide, space))
    assert "ad&lt;amw" in text
    assert "Accuracy over optimizer" in text
    assert "contour" in {trace["type"] for chart in charts(text).values() for trace in chart["data"]}


def test_trials_without_the_second_knob_are_drawn_as_far_as_they_can_be() -> None:
    lone = tuple(trial(number, params={"lr": 0.01 * (number + 1)}) for number in range(3))
    text = page(found=None, trials=lone, study=study_of(lone))
    assert "Accuracy over lr" in text
    assert "Every trial in order" in text


def test_too_few_or_equal_trials_say_nothing_of_importance() -> None:
    assert importance_chart(study_of(TRIALS[:3])) is None
    assert importance_chart(study_of([trial(n, params=dict(TRIALS[n % 2].params)) for n in range(6)])) is None
    assert history_chart(study_of([TRIALS[3], TRIALS[5]])) is None


def test_of_very_many_trials_the_best_curves_are_drawn_and_the_rest_counted() -> None:
    many = [
        trial(n, params={"lr": 0.001 + n / 1000, "fc_norm": 1.0}, validation_accuracy=n / 1000, curve=(n / 1000,))
        for n in range(450)
    ]
    text = page(found=best(params=dict(many[449].params), trials=(449,)), trials=many)
    curves = next(chart for chart in charts(text).values() if len(chart["data"]) == 200)
    assert any("trial 449 " in trace["name"] for trace in curves["data"])
    assert "Left out: 250 of lower accuracy." in text
