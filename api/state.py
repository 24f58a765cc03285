"""What the API holds on to while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncEngine

from api.access import Guard
from deployments.desired import Rules
from deployments.duties import Duty, discover
from deployments.gateway import Gateway
from store import roster
from store.settings import Settings

Embed = Callable[[str, str], Awaitable[list[float] | None]]
"""Gives the vector of a text by the embedder of that name; None where that cannot be had."""


@dataclass
class State:
    """The database, Prefect, and the duties that there are.

    Attributes:
        settings: What the operator has set.
        engine: The definitions database.
        gateway: Prefect.
        instance: The database's own id.
        duties: The duties by name.
        broken: Those that do not load, with the reason.
        applying: Held while changes are carried out.
        readiness: The look at what the API needs, while it is being taken.
        embed: What makes vectors of searches; None where search goes by word alone.
    """

    settings: Settings
    engine: AsyncEngine
    gateway: Gateway
    instance: str
    duties: Mapping[str, Duty]
    broken: Mapping[str, str]
    guard: Guard
    applying: asyncio.Lock = field(default_factory=asyncio.Lock)
    readiness: asyncio.Task[list[dict[str, object]]] | None = None
    embed: Embed | None = None

    @classmethod
    async def of(
        cls, settings: Settings, engine: AsyncEngine, gateway: Gateway, embed: Embed | None = None
    ) -> State:
        """Return what an API on these parts holds on to."""
        duties, broken = discover()
        instance = (await roster.read(engine, [])).instance
        return cls(settings, engine, gateway, instance, duties, broken, Guard(engine), embed=embed)

    @property
    def rules(self) -> Rules:
        """What a definition is measured against before it is written.

        Its work pool is not looked up: a definition can be written while Prefect is away.
        """
        return Rules(self.instance, self.duties, self.broken, work_pool=self.settings.work_pool)


def state_of(request: Request) -> State:
    """Return what the API that a request came to holds on to."""
    found: State = request.app.state.rota
    return found
