"""The server's settings: one object, built once, passed on. Each is an option of ``serve`` or ``FIXNORM_<NAME>``."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["BackendName", "LogFormat", "Settings"]


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
        state_dir: Database, checkpoints, weights, logs and reports. Workers must see it under the same path.
        data_root: Where relative ``data.path`` of jobs are looked up and downloaded sets are kept; None is
            ``<state_dir>/data``.
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
        poll_interval: Longest pause between two looks at the backend; its news ends it.
        epoch_seconds: How long the simulator's epochs take.
        webhook_private: Whether a job's webhook may lead to this machine and into private networks.
        webhook_secret: What webhooks are signed with, ``whsec_`` and base64; None makes one in ``state_dir``.
        log_format: Of the server's own log, on stderr.
        log_level: The lowest level that is told of it.
        heartbeat: How long a stream of events may be silent before it says that it is alive.
    """

    model_config = SettingsConfigDict(env_prefix="FIXNORM_", frozen=True, extra="ignore")

    state_dir: Path = Path("fixnorm-state")
    data_root: Path | None = None
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
    poll_interval: timedelta = timedelta(milliseconds=50)
    epoch_seconds: float = Field(default=0.0, ge=0)
    webhook_private: bool = False
    webhook_secret: SecretStr | None = None
    log_format: LogFormat = LogFormat.CONSOLE
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    heartbeat: timedelta = timedelta(seconds=15)

    @field_validator("state_dir", "data_root")
    @classmethod
    def _is_absolute(cls, value: Path | None) -> Any:
        return value.expanduser().resolve() if value is not None else None

    @field_validator("database_url")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        from service.database.connections import canonical_url  # only where a database is named

        return canonical_url(value) if value is not None else None

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.state_dir / 'fixnorm.db'}"

    @property
    def images(self) -> Path:
        """Where data sets live."""
        return self.data_root or self.state_dir / "data"
