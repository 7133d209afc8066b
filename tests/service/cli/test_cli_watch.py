from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from standin import Answer, StandIn, best, job, problem, trial
from typer.testing import Result

from service.cli.follow import live_view, watch
from service.cli.snapshot import Snapshot, changes
from service.cli.words import sparkline, time_left
from service.client import Client, ProblemError, ServerUnreachableError
from service.schemas import JobState, JobView, TrialState

CLI = Callable[..., Result]

RUNNING = trial(0, TrialState.RUNNING, curve=(0.5,))


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=200)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def script(server: StandIn, end: JobView) -> None:
    """A job that starts a trial, finishes it, and ends."""
    server.on("GET", "/api/v1/jobs/j1", job(JobState.QUEUED, reason="waiting for a slot"), job(), job(), end)
    server.on("GET", "/api/v1/jobs/j1/trials", [], [RUNNING], [trial(0)])


def test_news_are_told_once_and_in_order() -> None:
    first = Snapshot(job(), (RUNNING,))
    second = Snapshot(job(), (trial(0), trial(1, TrialState.DIVERGED, curve=(0.1, 0.1)), trial(2, TrialState.RUNNING)))
    assert changes(None, first) == ["job j1 is RUNNING: searching", "trial 0 started (search): lr 0.01, fc_norm 1"]
    assert changes(first, second) == [
        "trial 0 finished: 93.33 % validation accuracy",
        "trial 1 started (search): lr 0.01, fc_norm 1",
        "trial 1 diverged after 2 of 3 epochs",
        "trial 2 started (search): lr 0.01, fc_norm 1",
    ]
    assert changes(second, second) == []


def test_a_trial_is_told_when_its_whole_point_is_known() -> None:
    asked = Snapshot(job(), (trial(0, TrialState.RUNNING, params={"lr": 0.01}),))
    assert changes(Snapshot(job(), ()), asked) == []
    assert changes(asked, Snapshot(job(), (RUNNING,))) == ["trial 0 started (search): lr 0.01, fc_norm 1"]


def test_a_reason_is_news_only_while_the_job_waits() -> None:
    waiting = Snapshot(job(reason="needs 2 GPUs, 1 free"), (trial(0),))
    assert changes(Snapshot(job(), (trial(0),)), waiting) == ["job j1 is RUNNING: needs 2 GPUs, 1 free"]
    training = Snapshot(job(reason="trial 0 training"), (RUNNING,))
    assert changes(Snapshot(job(), (RUNNING,)), training) == []


def test_what_the_job_waits_for_after_its_last_trial_is_told_after_that_trials_end() -> None:
    measuring = Snapshot(job(reason="measuring the test accuracy"), (trial(0),))
    assert changes(Snapshot(job(reason="training trial 0"), (RUNNING,)), measuring) == [
        "trial 0 finished: 93.33 % validation accuracy",
        "job j1 is RUNNING: measuring the test accuracy",
    ]


def test_why_the_search_ended_is_told_once_between_its_last_trial_and_the_confirming_runs() -> None:
    over = job(stop_reason="nothing to gain")
    confirming = Snapshot(over, (trial(0), trial(1, TrialState.RUNNING, kind="confirm")))
    assert changes(Snapshot(job(), (RUNNING,)), confirming) == [
        "trial 0 finished: 93.33 % validation accuracy",
        "the search is over: nothing to gain",
        "trial 1 started (confirm): lr 0.01, fc_norm 1",
    ]
    assert changes(confirming, Snapshot(over, (trial(0), trial(1, kind="confirm")))) == [
        "trial 1 finished: 93.33 % validation accuracy"
    ]


def test_a_failed_trial_is_told_with_its_reason() -> None:
    failed = Snapshot(job(), (trial(0, TrialState.FAILED, reason="out of memory"),))
    assert changes(Snapshot(job(), (RUNNING,)), failed) == ["trial 0 failed: out of memory"]


def test_a_trial_that_was_stopped_early_is_told_with_its_epochs_and_its_reason() -> None:
    stopped = trial(0, TrialState.PRUNED, curve=(0.5,), reason="its chance to end above 0.9 is 2 %")
    assert changes(Snapshot(job(), (RUNNING,)), Snapshot(job(), (stopped,))) == [
        "trial 0 stopped early after 1 of 3 epochs: its chance to end above 0.9 is 2 %"
    ]


def test_watching_into_a_pipe_writes_one_line_for_each_event(
    server: StandIn, cli: CLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    script(server, job(JobState.SUCCEEDED, reason="3 trials are used", best=best()))
    result = cli("show", "j1", "--watch")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:5] == [
        "job j1 is QUEUED: waiting for a slot",
        "job j1 is RUNNING: searching",
        "trial 0 started (search): lr 0.01, fc_norm 1",
        "trial 0 finished: 93.33 % validation accuracy",
        "job j1 is SUCCEEDED: 3 trials are used",
    ]
    assert "validation accuracy  98.26 % ± 0.35 %" in result.stdout
    assert not any(ord(sign) < 32 and sign != "\n" for sign in result.stdout)


def test_submit_and_watch_ends_with_the_table_and_the_result(server: StandIn, cli: CLI, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: digits\n")
    server.on("POST", "/api/v1/jobs", job(JobState.QUEUED))
    script(server, job(JobState.SUCCEEDED, best=best()))
    result = cli("submit", file, "--watch")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "job j1 (digits) is submitted"
    table = next(number for number, line in enumerate(lines) if line.split()[:2] == ["trial", "kind"])
    block = lines.index("Best point of job j1 (digits)")
    assert table < block
    assert lines[-1].split() == ["dashboard", f"{server.url}/dashboard/studies/1"]


def test_an_end_between_two_looks_is_told_and_the_job_followed_on_to_the_next_one(server: StandIn) -> None:
    first = best(validation_accuracy=0.97)
    reopened = job(reason="extended by 2 trials to 5 by request", former=first)
    end = job(JobState.SUCCEEDED, reason="max_trials 5 is used up", best=best())
    server.on("GET", "/api/v1/jobs/j1", job(), reopened, reopened, end)
    server.on("GET", "/api/v1/jobs/j1/trials", [trial(0)])
    console = plain_console()
    with Client(server.url) as client:
        seen = watch(client, "j1", console=console, sleep=lambda _: None)
    assert seen.job == end
    lines = text_of(console).splitlines()
    assert [line for line in lines if "had ended" in line] == [
        "job j1 had ended meanwhile, with 97.00 % at lr 0.01235, fc_norm 2.3, and goes on in another round"
    ]
    assert lines[-1] == "job j1 is SUCCEEDED: max_trials 5 is used up"


def test_the_first_end_that_is_seen_is_the_one(server: StandIn) -> None:
    end = job(JobState.SUCCEEDED, best=best())
    server.on("GET", "/api/v1/jobs/j1", job(), end, job(former=best()))
    server.on("GET", "/api/v1/jobs/j1/trials", [trial(0)])
    with Client(server.url) as client:
        assert watch(client, "j1", console=plain_console(), sleep=lambda _: None).job == end


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_watching_a_job_that_ends_without_success_fails(server: StandIn, cli: CLI, state: JobState) -> None:
    script(server, job(state, reason="3 trials in a row failed"))
    result = cli("show", "j1", "--watch")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"error: job j1 is {state}: 3 trials in a row failed",
        "way out: See its trials with 'fixnorm-tune trials j1'",
    ]


def test_json_keeps_progress_off_stdout(server: StandIn, cli: CLI) -> None:
    end = job(JobState.SUCCEEDED, best=best())
    script(server, end)
    result = cli("show", "j1", "--watch", "-o", "json")
    assert JobView.model_validate_json(result.stdout) == end
    assert "trial 0 finished" in result.stderr


def test_a_server_that_comes_back_is_waited_for(server: StandIn) -> None:
    server.on("GET", "/api/v1/jobs/j1", job(), job(JobState.SUCCEEDED))
    server.on("GET", "/api/v1/jobs/j1/trials", [])
    pauses: list[float] = []

    def restart(seconds: float) -> None:
        pauses.append(seconds)
        server.stop() if len(pauses) == 1 else None
        server.start() if len(pauses) == 4 else None

    console = plain_console()
    with Client(server.url) as client:
        end = watch(client, "j1", console=console, sleep=restart)
    assert end.job.state is JobState.SUCCEEDED
    assert pauses == [0.5, 0.5, 1.0, 2.0]
    lines = text_of(console).splitlines()
    assert len(lines) == 4
    assert "the job is safe, trying again for two minutes" in lines[1]
    assert lines[2] == "the server answers again"


def test_a_server_that_stays_away_is_given_up(server: StandIn) -> None:
    server.on("GET", "/api/v1/jobs/j1", job())
    server.on("GET", "/api/v1/jobs/j1/trials", [])
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        server.stop()
        now += seconds

    with Client(server.url) as client, pytest.raises(ServerUnreachableError):
        watch(client, "j1", console=plain_console(), sleep=wait)
    assert 120 <= now < 130


def test_a_job_that_does_not_exist_is_not_waited_for(server: StandIn) -> None:
    server.on("GET", "/api/v1/jobs/j1", job(), problem(404, "job_not_found", "there is no job j1"))
    server.on("GET", "/api/v1/jobs/j1/trials", [])
    with Client(server.url) as client, pytest.raises(ProblemError):
        watch(client, "j1", console=plain_console(), sleep=lambda _: None)


def test_a_terminal_gets_a_live_table(server: StandIn) -> None:
    script(server, job(JobState.SUCCEEDED))
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=30, _environ={"TERM": "xterm"})
    with Client(server.url) as client:
        watch(client, "j1", console=console, sleep=lambda _: None)
    drawn = text_of(console)
    assert "\x1b[?25l" in drawn  # the cursor is hidden while it is drawn
    assert "\x1b[?25h" in drawn.rsplit("trials", 1)[1]  # and comes back at the end
    assert "1 of 3 trials; no finished trial yet" in drawn


def interrupt(_seconds: float) -> None:
    raise KeyboardInterrupt


def test_the_last_picture_stays_on_a_terminal_when_a_person_breaks_off(server: StandIn) -> None:
    script(server, job(JobState.SUCCEEDED))
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=30, _environ={"TERM": "xterm"})
    with Client(server.url) as client, pytest.raises(KeyboardInterrupt):
        watch(client, "j1", console=console, sleep=interrupt)
    after = text_of(console).rsplit("ends after", 1)[1]
    assert "\x1b[?25h" in after
    assert "\x1b[2K" not in after  # no line is erased


def test_the_live_view_fits_on_the_screen_and_shows_the_newest_trials() -> None:
    now = Snapshot(job(best=best()), tuple(trial(number) for number in range(40)))
    console = Console(file=io.StringIO(), width=150, height=20)
    console.print(live_view(now, console=console))
    lines = text_of(console).splitlines()
    assert len(lines) < 20
    assert lines[0] == "job j1 (digits) RUNNING: searching"
    assert any(line.split()[:1] == ["39"] for line in lines)
    assert "(28 earlier trials are not shown)" in lines
    assert lines[-3] == "1 of 3 trials; best so far 98.26 % at lr 0.01235, fc_norm 2.3"
    assert lines[-2:] == [
        "at most about 5s to go",
        "ends after 12 trials, 2 of them to confirm the best point, or once no gain is expected",
    ]


@pytest.mark.parametrize("width", [60, 150])
def test_the_live_view_says_why_the_search_is_over_and_that_the_job_had_ended_before(width: int) -> None:
    reopened = job(best=best(), former=best(validation_accuracy=0.97), stop_reason="max_trials 5 is used up" * 3)
    console = Console(file=io.StringIO(), width=width, height=20)
    console.print(live_view(Snapshot(reopened, tuple(map(trial, range(40)))), console=console))
    lines = text_of(console).splitlines()
    assert len(lines) == 19  # however many lines a sentence takes
    told = " ".join(" ".join(lines).split())
    assert "had ended before, with 97.00 % at lr 0.01235, fc_norm 2.3, and goes on in another round" in told
    assert told.endswith(f"the search is over: {reopened.stop_reason}")


def test_a_proxy_in_the_place_of_a_server_that_restarts_is_waited_for(server: StandIn) -> None:
    page = Answer(b"<html>Bad Gateway</html>", 502, "text/html")
    server.on("GET", "/api/v1/jobs/j1", job(), page, page, job(JobState.SUCCEEDED))
    server.on("GET", "/api/v1/jobs/j1/trials", [])
    console = plain_console()
    with Client(server.url) as client:
        assert watch(client, "j1", console=console, sleep=lambda _: None).job.state is JobState.SUCCEEDED
    assert "the job is safe, trying again for two minutes" in text_of(console)


@pytest.mark.parametrize(
    ("seconds", "at_once", "told"),
    [(12.0, 1, "25s"), (100.0, 1, "4min"), (100.0, 2, "2min"), (4000.0, 2, "1h 10min")],
)
def test_the_time_left_is_that_of_the_trials_to_come_at_the_pace_of_those_that_ended(
    seconds: float, at_once: int, told: str
) -> None:
    view = job()
    budget = view.spec.budget.model_copy(update={"parallel_trials": at_once})
    view = view.model_copy(update={"spec": view.spec.model_copy(update={"budget": budget})})
    ended = trial(0).model_copy(update={"seconds": seconds})
    assert time_left(view, [ended, RUNNING]) == f"at most about {told} to go"
    assert time_left(view, [RUNNING]) == "time left: told after the first trial"


def test_a_sparkline_spans_its_scale_and_keeps_the_last_value() -> None:
    assert sparkline([0.0, 0.5, 1.0], low=0.0, high=1.0) == "▁▅█"
    assert sparkline([0.7, 0.7], low=0.7, high=0.7) == "▁▁"
    long = sparkline([number / 99 for number in range(100)], low=0.0, high=1.0, width=10)
    assert len(long) == 10
    assert long[-1] == "█"


def test_an_interrupt_leaves_the_job_running_and_says_how_to_watch_again(server: StandIn) -> None:
    server.on("GET", "/api/v1/jobs/j1", job())
    server.on("GET", "/api/v1/jobs/j1/trials", [])
    # A shell starts its background jobs deaf to interrupts, and its children inherit that; a terminal's are not
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", heard + "from service.cli.main import main; main()", "show", "j1", "--watch"]
    environment = {**os.environ, "FIXNORM_SERVER": server.url}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        try:
            assert run.stdout
            assert run.stdout.readline() == "job j1 is RUNNING: searching\n"
            run.send_signal(signal.SIGINT)
            _, errors = run.communicate(timeout=20)
        finally:
            run.kill()
    assert run.returncode == 130
    assert errors == "\njob j1 keeps running; watch it again: fixnorm-tune watch j1\n"
    assert server.sent("POST", "/api/v1/jobs/j1/cancel") == []
