"""The worker's measures, and what the environment says of them."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

POLL = 1.0
"""Seconds between two polls: as long may a run that is asked for now have to wait."""
RENEW = 60.0
"""Seconds between two renewals of concurrency leases, which last five minutes."""
GATE = 6
"""Runs that may be between claim and begin at once. More would only wait for the server, and for
longer than need be for whoever else might start them."""
THREADS = 40
"""Sync flows at once."""
CLEANUP = 5.0
"""Seconds for the cleanup of flows that the grace period did not suffice for."""
MOST = 200
"""Runs to wait for at once."""
AHEAD = 3
"""Polls for which a run is known before its time."""
STALE = 2.5
"""Seconds after which a run that has not been seen since is looked at before its claim."""


class InlineSettings(BaseSettings):
    """What the environment says of the worker, as `ROTA_WORKER_...`."""

    model_config = SettingsConfigDict(env_prefix="ROTA_WORKER_")

    grace_seconds: float = Field(default=30.0, ge=0)
    """How long runs may go on after a SIGTERM."""
    limit: int = Field(default=1000, ge=1)
    """Runs at once, unless `--limit` says otherwise."""
