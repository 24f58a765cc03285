"""What an operator may set, all of it through `ROTA_*` environment variables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Rota's settings; Prefect keeps its own in `prefect.toml` and `PREFECT_*`."""

    model_config = SettingsConfigDict(env_prefix="ROTA_", extra="ignore")

    home: Path = Field(
        Path(".rota"), description="Where one machine's state lives: databases, logs, pid file."
    )
    database_url: SecretStr | None = Field(
        None, description="The definitions database, if it is not the embedded one."
    )
    rabbitmq_url: SecretStr | None = Field(
        None, description="The broker whose events `rota events` consumes."
    )
    prefect_port: int = Field(4200, ge=1, le=65535, description="Port of the Prefect server.")
    service_port: int = Field(
        4281, ge=1, le=65535, description="Port of the example workflow service."
    )
    api_host: str = Field(
        "127.0.0.1", min_length=1, description="Where the HTTP API listens, beside its port."
    )
    api_port: int = Field(4280, ge=1, le=65535, description="Port of the HTTP API.")
    api_body_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, description="The largest body that the HTTP API reads."
    )
    api_seconds: float = Field(
        30, gt=0, description="Seconds after which the HTTP API gives a request up."
    )
    api_origins: list[str] = Field(
        [], description="Web origins that may call the HTTP API, as a JSON list; none by default."
    )
    sweep_seconds: float = Field(300, gt=0, description="Seconds between two full sweeps.")
    settle_seconds: float = Field(
        20,
        ge=0,
        description="Seconds after a write for which Prefect's scheduler may put back old runs.",
    )
    status_seconds: float = Field(
        3, gt=0, description="Seconds between two readings of what has run."
    )
    concurrency: int = Field(
        4, ge=1, le=64, description="How many calls to Prefect may be under way at once."
    )
    work_pool: str = Field(
        "rota", min_length=1, description="The pool of definitions that name none."
    )

    @property
    def pgdata(self) -> Path:
        """Where the embedded PostgreSQL keeps its data."""
        return self.home.resolve() / "postgres"

    @property
    def pid_file(self) -> Path:
        """What a running `rota up` says of itself, for commands in other terminals."""
        return self.home.resolve() / "up.json"

    @property
    def api_token_file(self) -> Path:
        """Where `rota up` keeps the token with which it is used on its own machine."""
        return self.home.resolve() / "api.token"

    def running(self) -> dict[str, Any] | None:
        """Return the addresses of the `rota up` that runs on this home, if one does."""
        try:
            said: dict[str, Any] = json.loads(self.pid_file.read_text())
            process = psutil.Process(said["pid"])
            alive = abs(process.create_time() - said["created"]) < 1
        except (OSError, ValueError, KeyError, psutil.Error):
            return None
        return said if alive else None
