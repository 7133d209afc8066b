"""Tunes the digits through the Python client: submits a job, follows its events, prints its result.

Start a server first, ``fixnorm-tune serve``, then run ``python examples/client.py``. ``FIXNORM_SERVER`` and
``FIXNORM_TOKEN`` name another server and its token.
"""

from __future__ import annotations

from fixnorm_core import JobSpec
from fixnorm_core.recipes import find_recipe
from service.client import Client, ServerUnreachableError
from service.schemas import EventKind

__all__ = ["main"]


def main() -> None:
    """Runs the example.

    Raises:
        SystemExit: There is no server.
    """
    spec: JobSpec = find_recipe("digits").job()  # or JobSpec(...), or load_job_file("my-job.yaml")
    try:
        with Client() as client:
            job = client.submit(spec)
            print(f"job {job.id} is submitted; {client.server}/jobs/{job.id} shows it")
            for event in job.events():  # over broken connections and restarts of the server too
                if event.kind is EventKind.ATTEMPT_STARTED and event.params:
                    print(f"trial {event.trial}: {event.params}")
                elif event.kind is EventKind.TRIAL_ENDED:
                    accuracy = event.validation_accuracy  # None of one that failed or was ended early
                    what = event.reason if accuracy is None else f"accuracy {accuracy}"
                    print(f"trial {event.trial}: {event.state}, {what}")
            ended = job.wait()
            print(f"{ended.state}: {ended.reason}")
            if ended.best:
                print(f"{ended.best.params}: {ended.best.validation_accuracy:.4f} ± {ended.best.standard_error:.4f}")
    except ServerUnreachableError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
