"""Trials whose files are kept in an object store: each attempt begins with an empty folder, as on another node."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from buckets import KEY_ID, SECRET
from nodes import ROOT, Killed, Node
from safetensors.torch import load
from waiting import wait_until

from fixnorm_core.artifacts import ArtifactStore, attempt_folder, log_name
from fixnorm_core.code import keep_code, named_by_code
from fixnorm_core.reach import Reach
from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrialSpec
from worker import kept_log
from worker.contracts import (
    Evaluated,
    Failed,
    FailureKind,
    Outcome,
    Stopped,
    Trained,
    TrainTask,
    log_path,
)
from worker.keeping import prepared
from worker.run_task import DataCache, run_task

EPOCHS = 4


@pytest.fixture(scope="module")
def undisturbed(cache: DataCache, trial: TrialSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same trial, trained in one go without a store."""
    folder = tmp_path_factory.mktemp("undisturbed")
    outcome = run_task(TrainTask("u", trial, str(folder)), cache=cache, report=lambda _: None)
    assert isinstance(outcome, Trained)
    return folder


def test_it_is_trained_and_evaluated_and_everything_is_in_the_bucket(node: Node, undisturbed: Path) -> None:
    trained = node.train(1)
    assert isinstance(trained, Trained)
    own = attempt_folder(1)
    assert node.names() == [f"{own}/{name}" for name in ("best.safetensors", "result.json", "weights.safetensors")]
    assert trained.result.weights == f"s3://images/{ROOT}/{node.prefix}/{own}/weights.safetensors"
    assert trained.result.best_weights == f"s3://images/{ROOT}/{node.prefix}/{own}/best.safetensors"
    for name in ("weights", "best"):
        assert same_tensors(
            node.content(f"{own}/{name}.safetensors"), (undisturbed / f"{name}.safetensors").read_bytes()
        )
    tested = node.evaluate(2)
    assert isinstance(tested, Evaluated)
    assert f"epoch {EPOCHS} of {EPOCHS}" in node.log(1)
    assert "test accuracy" in node.log(2)
    assert KEY_ID not in node.log(1) + node.log(2)
    assert SECRET not in node.log(1) + node.log(2)
    assert [path for path in node.folder.rglob("*") if path.is_file()] == []  # nothing stays on the node


def test_one_that_is_killed_goes_on_on_a_node_without_its_folder_and_ends_in_the_same_bits(
    node: Node, undisturbed: Path
) -> None:
    node.train_and_die(1, after=2)
    assert node.names() == [
        f"{attempt_folder(1)}/{name}" for name in ("best.safetensors", "checkpoint-000001.pt", "checkpoint-000002.pt")
    ]
    node.train_and_die(2, after=3)
    assert "resuming after epoch 2 of 4" in node.log(2)
    assert [name for name in node.names() if "checkpoint" in name] == [  # the last two, of whichever attempt
        f"{attempt_folder(1)}/checkpoint-000002.pt",
        f"{attempt_folder(2)}/checkpoint-000003.pt",
    ]
    trained = node.train(3)
    assert isinstance(trained, Trained)
    assert "resuming after epoch 3 of 4" in node.log(3)
    own = attempt_folder(3)
    assert node.names() == [f"{own}/{name}" for name in ("best.safetensors", "result.json", "weights.safetensors")]
    for name in ("weights", "best"):
        assert same_tensors(
            node.content(f"{own}/{name}.safetensors"), (undisturbed / f"{name}.safetensors").read_bytes()
        )
    assert [report.epoch for report in node.reports] == [1, 2, 1, 2, 3, 1, 2, 3, 4]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_left_where_it_is(
    node: Node, undisturbed: Path
) -> None:
    node.train_and_die(1, after=3)
    newest, before = (f"{attempt_folder(1)}/checkpoint-00000{epoch}.pt" for epoch in (3, 2))
    whole = node.content(newest)
    node.put(newest, whole[: len(whole) // 2])
    assert isinstance(node.train(2), Trained)
    assert f"not resuming from s3://images/{ROOT}/{node.prefix}/{newest}" in node.log(2)
    assert "resuming after epoch 2 of 4" in node.log(2)
    assert same_tensors(
        node.content(f"{attempt_folder(2)}/weights.safetensors"), (undisturbed / "weights.safetensors").read_bytes()
    )
    assert newest in node.names()  # it may be somebody's work
    assert before not in node.names()


def damaged(node: Node, name: str) -> str:
    """One byte of it is another, and its length is what it was."""
    node.bucket.damage(f"{ROOT}/{node.prefix}/{name}")
    return f"s3://images/{ROOT}/{node.prefix}/{name} is damaged"


def test_a_checkpoint_of_which_one_byte_is_another_is_passed_over_too(node: Node, undisturbed: Path) -> None:
    node.train_and_die(1, after=3)
    said = damaged(node, f"{attempt_folder(1)}/checkpoint-000003.pt")
    assert isinstance(node.train(2), Trained)
    assert said in node.log(2)
    assert "resuming after epoch 2 of 4" in node.log(2)
    assert same_tensors(
        node.content(f"{attempt_folder(2)}/weights.safetensors"), (undisturbed / "weights.safetensors").read_bytes()
    )


@pytest.mark.parametrize("name", ["weights", "best"])
def test_a_run_that_had_ended_with_weights_that_are_damaged_is_trained_again(
    node: Node, undisturbed: Path, name: str
) -> None:
    node.train_and_die(1, after=EPOCHS)
    said = damaged(node, f"{attempt_folder(1)}/{name}.safetensors")
    assert isinstance(node.train(2), Trained)
    assert said in node.log(2)
    assert same_tensors(
        node.content(f"{attempt_folder(2)}/{name}.safetensors"), (undisturbed / f"{name}.safetensors").read_bytes()
    )


def test_damaged_weights_are_not_evaluated(node: Node) -> None:
    assert isinstance(node.train(1), Trained)
    said = damaged(node, f"{attempt_folder(1)}/weights.safetensors")
    outcome = node.evaluate(2)
    assert isinstance(outcome, Failed)
    assert "there are no whole weights" in outcome.message
    assert said in node.log(2)


def test_the_best_weights_are_those_of_the_run_that_is_resumed(node: Node) -> None:
    """Not of a later attempt that began anew, since its node had another version of a package, say."""
    own = node.trial
    node.train_and_die(1, after=2)
    best = node.content(f"{attempt_folder(1)}/best.safetensors")
    node.trial = own.model_copy(update={"seed": 7})
    node.train_and_die(2, after=1)
    node.trial = own
    assert isinstance(node.train(3, stop=lambda: True), Stopped)
    assert "resuming after epoch 2 of 4" in node.log(3)
    assert same_tensors(node.content(f"{attempt_folder(3)}/best.safetensors"), best)


def test_another_trials_checkpoints_and_result_are_passed_over(node: Node, undisturbed: Path) -> None:
    other = node.trial
    node.trial = other.model_copy(update={"seed": 7})
    node.train_and_die(1, after=2)
    node.train(2)
    foreign = {name: node.content(name) for name in node.names()}
    node.trial = other
    assert isinstance(node.train(3), Trained)
    assert "is of another run" in node.log(3)
    assert "resuming" not in node.log(3)
    assert {name: node.content(name) for name in foreign} == foreign
    assert same_tensors(
        node.content(f"{attempt_folder(3)}/weights.safetensors"), (undisturbed / "weights.safetensors").read_bytes()
    )


def test_a_run_that_had_ended_when_its_node_died_is_not_trained_again(node: Node) -> None:
    node.train_and_die(1, after=EPOCHS)  # its weights are there, and nobody was told
    (weights,) = {node.content(name) for name in node.names() if name.endswith("/weights.safetensors")}
    trained = node.train(2)
    assert isinstance(trained, Trained)
    assert trained.result.weights == f"s3://images/{ROOT}/{node.prefix}/{attempt_folder(2)}/weights.safetensors"
    assert node.content(f"{attempt_folder(2)}/weights.safetensors") == weights
    assert {name.partition("/")[0] for name in node.names()} == {attempt_folder(2)}
    assert "epoch" not in node.log(2)


def test_wherever_it_is_killed_between_two_writes_it_ends_in_the_same_bits(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = node.trial.training.model_copy(update={"epochs": 2})
    node.trial = node.trial.model_copy(update={"training": training})
    left = -1

    def dying(method: Callable[..., None]) -> Callable[..., None]:
        def write(*args: object) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            method(*args)

        return write

    monkeypatch.setattr(ArtifactStore, "put", dying(ArtifactStore.put))
    monkeypatch.setattr(ArtifactStore, "remove", dying(ArtifactStore.remove))
    node.prefix = "jobs/whole/trials/0000"
    assert isinstance(node.train(1), Trained)
    whole = [node.content(f"{attempt_folder(1)}/{name}.safetensors") for name in ("weights", "best")]
    kills = 0
    while True:
        node.prefix, left = f"jobs/killed-{kills}/trials/0000", kills
        try:
            node.train(1)
        except Killed:
            kills += 1
        else:
            break
        left = -1
        assert isinstance(node.train(2), Trained), kills
        found = [node.content(f"{attempt_folder(2)}/{name}.safetensors") for name in ("weights", "best")]
        assert all(map(same_tensors, found, whole)), kills
        assert {name.partition("/")[0] for name in node.names()} == {attempt_folder(2)}, kills
    assert kills >= 5  # best, checkpoint, weights, record, removal


def test_one_that_goes_on_after_another_has_begun_spoils_nothing_of_that_ones(node: Node) -> None:
    """As when its node lost touch with the server, which took it for dead."""
    later: list[Outcome] = []
    found: dict[str, bytes] = {}

    def begin_another() -> bool:
        if not later:
            later.append(node.train(2))
            found.update({name: node.content(name) for name in node.names() if name.startswith(attempt_folder(2))})
        return False

    node.train(1, stop=begin_another)
    assert [type(outcome) for outcome in later] == [Trained]
    assert "resuming after epoch 1" in node.log(2)
    assert {name: node.content(name) for name in node.names() if name.startswith(attempt_folder(2))} == found
    assert any(name.endswith("weights.safetensors") for name in found)
    node.bucket.requests.clear()
    assert isinstance(node.evaluate(3), Evaluated)
    weights = [key for key in node.bucket.fetched() if key.endswith("weights.safetensors")]
    assert weights
    assert all(f"/{attempt_folder(2)}/" in key for key in weights)


def test_a_store_that_is_down_for_a_while_is_waited_for(node: Node) -> None:
    def is_down(asked: str) -> bool:
        if asked.startswith("PUT") and "checkpoint-000002" in asked:
            refused.append(asked)
            return len(refused) <= 3  # botocore makes two of one
        return False

    refused: list[str] = []
    node.bucket.answers_badly = is_down
    assert isinstance(node.train(1, patience=60), Trained)
    assert len(refused) > 3
    assert "does not answer as it should" in node.log(1)
    assert "asked again in" in node.log(1)


@pytest.mark.parametrize("what", ["checkpoint-000002", "weights.safetensors", "result.json"])
def test_a_store_that_stays_down_ends_the_attempt_uncharged_and_nothing_is_told_that_is_not_there(
    node: Node, undisturbed: Path, what: str
) -> None:
    node.bucket.answers_badly = lambda asked: asked.startswith("PUT") and what in asked
    outcome = node.train(1)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.BUCKET_DOWN
    assert SECRET not in outcome.message + outcome.details
    assert len(node.reports) == (1 if what == "checkpoint-000002" else EPOCHS - 1)
    assert "does not answer as it should" in node.log(1)
    node.bucket.answers_badly = lambda _: False
    assert isinstance(node.train(2), Trained)
    assert same_tensors(
        node.content(f"{attempt_folder(2)}/weights.safetensors"), (undisturbed / "weights.safetensors").read_bytes()
    )


def test_a_store_that_refuses_is_the_operators_to_mend_and_costs_the_trial_nothing(node: Node) -> None:
    node.bucket.answers_badly, node.bucket.status = (lambda asked: asked.startswith("PUT")), 403
    outcome = node.train(1)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.BUCKET_DOWN
    assert "may not be written" in outcome.message
    assert "s3:PutObject" in outcome.message


def test_one_that_is_stopped_leaves_its_checkpoint_and_its_log(node: Node) -> None:
    assert isinstance(node.train(1, stop=lambda: True), Stopped)
    assert f"{attempt_folder(1)}/checkpoint-000001.pt" in node.names()
    assert "stopped after epoch 1 of 4" in node.log(1)


def test_weights_that_are_gone_are_said_to_be(node: Node) -> None:
    outcome = node.evaluate(1)
    assert isinstance(outcome, Failed)
    assert "there are no whole weights of the trial in s3://images/kept/jobs/" in outcome.message


def test_the_log_is_in_the_bucket_while_it_grows_and_is_put_there_when_its_process_was_killed(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_log, "_FIRST_SECONDS", 0.1)
    root = tmp_path / "1" / f"fixnorm-tune-trials-{os.getuid()}"
    key = f"{ROOT}/{node.prefix}/{log_name('job-0.0.1')}"
    task = TrainTask("job-0.0.1", node.trial, "/nowhere", artifacts=node.artifacts(1))
    with prepared(task) as (here, _):
        path = log_path(here.folder, here.attempt_id)
        path.parent.mkdir(parents=True)
        for line in ("one\n", "two\n"):
            with path.open("a") as file:
                file.write(line)
            wait_until(lambda line=line: node.bucket.keys(key) and line in node.bucket.content(key).decode())
        monkeypatch.setattr(kept_log.KeptLog, "put", lambda _: None)
        with path.open("a") as file:
            file.write("Segmentation fault\n")
        left = root / "job-0.0.9"  # as the process that was killed now would leave it
        shutil.copytree(here.folder, left)
        place = (left / "log-is-kept.json").read_text().replace(here.folder, str(left))
        (left / "log-is-kept.json").write_text(place)
        (root / "job-0.0.9.lock").touch()
    assert node.bucket.content(key) == b"one\ntwo\n"
    with prepared(replace(task, attempt_id="job-0.0.2")):
        assert not left.exists()
        assert node.bucket.content(key) == b"one\ntwo\nSegmentation fault\n"


def test_a_file_that_came_with_the_job_is_fetched_by_its_digest(node: Node, tmp_path: Path) -> None:
    code = "def build(num_classes):\n    raise ZeroDivisionError('it was imported')\n"
    reach = Reach(code=str(tmp_path / "the server's"))
    job = JobSpec(model=ModelSpec(name="code:build"), data=DataSpec(train_limit=100), code=code)
    stored = named_by_code(job, reach=reach)
    keep_code(code, folder=Path(str(reach.code)))
    (kept,) = Path(str(reach.code)).iterdir()
    node.bucket.put(f"{ROOT}/code/{kept.name}", kept.read_bytes())
    kept.unlink()
    trial = stored.trial({"lr": 0.008, "fc_norm": 2.0}, seed=1)
    task = TrainTask("t.1", trial, "/nowhere", reach, node.artifacts(1))
    outcome = run_task(task, cache=node.cache, report=lambda _: None)
    assert isinstance(outcome, Failed)
    assert "it was imported" in outcome.message + outcome.details


def same_tensors(one: bytes, other: bytes) -> bool:
    left, right = load(one), load(other)
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)
