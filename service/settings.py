"""The server's settings: one object, built once, passed on. Each is an option of ``serve`` or ``FIXNORM_<NAME>``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fixnorm_core.buckets import canonical_url as canonical_address
from fixnorm_core.buckets import is_url
from fixnorm_core.errors import DataError
from fixnorm_core.own import is_module_prefix
from fixnorm_core.reach import ANYWHERE, Reach, Roots

__all__ = ["SECRETS", "BackendName", "LogFormat", "Settings", "hide_secrets", "trackers_hidden"]

SECRETS = (
    "FIXNORM_ADMIN_TOKEN",
    "FIXNORM_DATABASE_URL",
    "FIXNORM_MLFLOW_TRACKING_URI",
    "FIXNORM_TOKEN",
    "FIXNORM_WEBHOOK_SECRET",
)
"""Variables of the environment that no child process has to know."""


_TOKEN_LENGTH = 32


class BackendName(StrEnum):
    """Where trials run."""

    RAY = "ray"
    SIMULATOR = "simulator"


class LogFormat(StrEnum):
    """How the server writes its own log."""

    CONSOLE = "console"
    """For a person."""

    JSON = "json"
    """For a program: one object a line."""


class Settings(BaseSettings):
    """Settings of one server.

    Attributes:
        state_dir: Database, checkpoints, weights, logs and reports. Workers must see it under the same path, unless
            ``artifacts`` is set.
        data_root: Where relative ``data.path`` of jobs are looked up and downloaded sets are kept; None is
            ``<state_dir>/data``.
        allowed_data_roots: Further folders and addresses (``s3://bucket/prefix``) that jobs may read data from, as in
            ``PATH``. Beside ``data_root`` they are then the only ones. None allows no further ones where users have
            tokens, and where nobody has one, every folder and bucket that the account may read.
        data_cache: Where workers keep data sets that they fetch from object stores; None is ``<state_dir>/cache``, and
            with ``artifacts`` a folder in the cache of the workers' account.
        data_cache_days: Versions there that no process has used for so long are removed when something is fetched.
        data_cache_gib: Others that no process uses likewise, those unused for longest first, until what is there takes
            no more; None for however much.
        artifacts: An address, ``s3://bucket/prefix``, that nodes keep checkpoints, weights and logs at, and this server
            finds them. Nodes then need not see ``state_dir``. None keeps them there.
        scratch: With ``artifacts``, a folder of each node, an absolute path, below which trials work in one of their
            own; None is one in the cache of the workers' account.
        allowed_modules: Modules, with commas between them, whose factories jobs may name as models and data sets
            (``package.module:factory``), those of modules in them too. Their code runs in the workers.
        allow_code: Whether a Python file may come with a job. Whoever may submit then runs any code as the account of
            the workers: reads what that account reads, the state folder with everybody's jobs among it.
        database_url: ``postgresql://user:password@host/database``, or of an SQLite file; None is one in ``state_dir``.
        backend: Where trials run.
        ray_address: An existing Ray cluster (also ``RAY_ADDRESS``); None starts Ray on this machine.
        cpus: CPU cores that trials may hold on a Ray started here, or simulated ones; None takes all.
        gpus: Likewise GPUs.
        lease_seconds: How long a server that has stopped answering is waited for before another on the same PostgreSQL
            database dispatches in its place.
        retry_seconds: How long a trial whose worker was lost rests before it is tried again; four times as long after
            each further loss in a row, at most five minutes.
        orphan_seconds: How long a slot on an existing Ray cluster goes on without a server before it gives its CPUs and
            GPUs back. A trial that was training there resumes from its last checkpoint.
        user_max_gpus: What the running trials of one user (``share.user``) hold together at most; None sets no bound.
            Jobs without a user count as one user's.
        user_max_cpus: Likewise CPU cores.
        reserve_seconds: How long a trial that does not fit in what is free may be passed over by smaller ones. Then
            room is kept for it.
        quarantine_seconds: How long a node on which trials are lost again and again is out of use at first; four times
            as long after each further time, at most six hours. 0 for never.
        poll_interval: Longest pause between two looks at the backend; its news ends it.
        epoch_seconds: How long the simulator's epochs take.
        tensorboard: Whether every trial gets TensorBoard's event files, in ``jobs/ID/tensorboard`` of ``state_dir``.
        mlflow_tracking_uri: An MLflow tracking server that is told of all jobs, such as ``http://mlflow:5000``; None
            tells none. Needs the extra ``mlflow``.
        mlflow_experiment: The experiment of MLflow's that they are told to.
        webhook_private: Whether a job's webhook may lead to this machine and into private networks.
        webhook_secret: What webhooks are signed with, ``whsec_`` and base64; None makes one in ``state_dir``.
        admin_token: An administrator's token that is in no database, 32 characters or more; with one, everybody has to
            send a token.
        admin_token_file: A file that holds it.
        require_tokens: Whether everybody has to send a token even on loopback, and before the first one was made. They
            always do once there has been one, and beyond loopback.
        open_metrics: Whether ``/metrics`` needs no token.
        max_request_bytes: How large a request's body may be.
        tls_cert: A certificate, with its chain, for https; None serves http.
        tls_key: Its key.
        keep_checkpoints_days: How long checkpoints are kept after their job's end, when nothing uses them; None
            for ever.
        keep_logs_days: Likewise what its trials have logged.
        keep_jobs_days: Likewise all of a job: its trials, events, files.
        keep_jobs: How many of the jobs that ended last are kept, however young the others are; None for all.
        keep_best: Whether the folder with a removed job's best weights, report and job file stays.
        log_format: Of the server's own log, on stderr.
        log_level: The lowest level that is told of it.
        heartbeat: How long a stream of events may be silent before it says that it is alive.
    """

    # Compose passes a variable that is not set on as an empty one
    model_config = SettingsConfigDict(env_prefix="FIXNORM_", env_ignore_empty=True, frozen=True, extra="ignore")

    state_dir: Path = Path("fixnorm-state")
    data_root: Path | None = None
    allowed_data_roots: Annotated[tuple[Path | str, ...] | None, NoDecode] = None
    data_cache: Path | None = None
    data_cache_days: float = Field(default=30.0, ge=0)
    data_cache_gib: float | None = Field(default=None, gt=0)
    artifacts: str | None = None
    scratch: Path | None = None
    allowed_modules: Annotated[tuple[str, ...], NoDecode] = ()
    allow_code: bool = False
    database_url: str | None = None
    backend: BackendName = BackendName.RAY
    ray_address: str | None = Field(
        default=None, validation_alias=AliasChoices("ray_address", "FIXNORM_RAY_ADDRESS", "RAY_ADDRESS")
    )
    cpus: float | None = Field(default=None, gt=0)
    gpus: float | None = Field(default=None, ge=0)
    lease_seconds: float = Field(default=10.0, ge=0.1)
    retry_seconds: float = Field(default=5.0, ge=0)
    orphan_seconds: float = Field(default=3600.0, ge=60)
    user_max_gpus: float | None = Field(default=None, gt=0)
    user_max_cpus: float | None = Field(default=None, gt=0)
    reserve_seconds: float = Field(default=300.0, ge=0)
    quarantine_seconds: float = Field(default=600.0, ge=0)
    poll_interval: timedelta = timedelta(milliseconds=50)
    epoch_seconds: float = Field(default=0.0, ge=0)
    tensorboard: bool = True
    mlflow_tracking_uri: str | None = None
    mlflow_experiment: str = Field(default="fixnorm-tune", min_length=1, max_length=250)
    webhook_private: bool = False
    webhook_secret: SecretStr | None = None
    admin_token: SecretStr | None = None
    admin_token_file: Path | None = None
    require_tokens: bool = False
    open_metrics: bool = False
    max_request_bytes: int = Field(default=4 * 2**20, ge=64 * 2**10)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    keep_checkpoints_days: float | None = Field(default=None, ge=0)
    keep_logs_days: float | None = Field(default=None, ge=0)
    keep_jobs_days: float | None = Field(default=None, ge=0)
    keep_jobs: int | None = Field(default=None, ge=0)
    keep_best: bool = True
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    heartbeat: timedelta = timedelta(seconds=15)

    @field_validator("state_dir", "data_root")
    @classmethod
    def _is_absolute(cls, value: Path | None) -> Any:
        return value.expanduser().resolve() if value is not None else None

    @field_validator("artifacts")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        try:
            return canonical_address(value) if value is not None else None
        except DataError as error:
            raise ValueError(str(error)) from None

    @field_validator("data_cache", "scratch")
    @classmethod
    def _is_a_path_of_the_workers(cls, value: Path | None) -> Any:
        if value is not None and not value.is_absolute():  # nor resolved: links may lead elsewhere on their nodes
            raise ValueError(f"{str(value)!r} is not absolute: it is a folder of the machines that trials run on")
        return value

    @field_validator("allowed_data_roots", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = re.split(f"{os.pathsep}(?!//)", value)  # not within s3://
        return tuple(part for part in parts if part) or None  # compose passes unset ones on as empty

    @field_validator("allowed_modules", mode="before")
    @classmethod
    def _are_modules(cls, value: Any) -> Any:
        modules = tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
        for module in modules:
            if not is_module_prefix(module):
                raise ValueError(f"{module!r} is no module's name; write them as in my_models,team.nets")
        return modules

    @field_validator("allowed_data_roots")
    @classmethod
    def _are_absolute(cls, value: tuple[Path | str, ...] | None) -> Any:
        return tuple(_place(each) for each in value) if value is not None else None

    @field_validator("database_url")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        from service.database.connections import canonical_url  # only where a database is named

        return canonical_url(value) if value is not None else None

    @field_validator("admin_token")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():  # compose passes an unset variable on as an empty one
            return None
        text = value.get_secret_value()
        if len(text) < _TOKEN_LENGTH or len(set(text)) < 10 or not text.isascii() or any(c.isspace() for c in text):
            raise ValueError(
                f"it must have at least {_TOKEN_LENGTH} characters, 10 different ones, ASCII and no spaces; "
                "`openssl rand -hex 32` makes one"
            )
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> Settings:
        if self.admin_token is not None and self.admin_token_file is not None:
            raise ValueError("admin_token and admin_token_file are both set; set one of them")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key need each other; set both or none")
        return self

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.state_dir / 'fixnorm.db'}"

    @property
    def trackers(self) -> tuple[str, ...]:
        """Names of the trackers that are told of jobs."""
        wanted = {"tensorboard": self.tensorboard, "mlflow": self.mlflow_tracking_uri is not None}
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)

    @property
    def images(self) -> Path:
        """Where data sets live."""
        return self.data_root or self.state_dir / "data"

    @property
    def kept_code(self) -> Path:
        """Where the Python files that came with jobs are kept, also once none may come any more."""
        return self.state_dir / "code"

    def reach(self, *, tokens: bool) -> Reach:
        """What jobs may read.

        Args:
            tokens: Whether everybody has to send a token.
        """
        if self.allowed_data_roots is None and not tokens:
            roots = ANYWHERE
        else:
            roots = Roots.at((self.images, *(self.allowed_data_roots or ())))
        code = str(self.kept_code) if self.allow_code else None
        cache = self.data_cache or (self.state_dir / "cache" if self.artifacts is None else None)
        kept = str(cache) if cache is not None else None
        cache_bytes = int(self.data_cache_gib * 2**30) if self.data_cache_gib is not None else None
        return Reach(roots, self.allowed_modules, code, kept, self.data_cache_days, cache_bytes)


def _place(given: Path | str) -> Path | str:
    """A folder, or an address, that jobs may read from."""
    if isinstance(given, str) and is_url(given):
        try:
            return canonical_address(given)
        except DataError as error:
            raise ValueError(str(error)) from None
    path = Path(given).expanduser()
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is relative; give absolute folders, with {os.pathsep!r} between them")
    return path


def hide_secrets() -> None:
    """Takes secrets out of this process' environment, which workers inherit, once settings have been read from it."""
    for name in SECRETS:
        os.environ.pop(name, None)


@contextmanager
def trackers_hidden() -> Iterator[None]:
    """Takes MLflow's variables, credentials among them, out of the environment while something is started.

    The tracker reads them later in this process, so they come back. To be used before there are other threads.
    """
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MLFLOW_")}
    try:
        yield
    finally:
        os.environ.update(hidden)
