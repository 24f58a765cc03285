"""Who calls, and what they may: tokens, roles, tenants."""

from __future__ import annotations

import re
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncEngine

from api.limits import App, Receive, Scope, Send
from api.problems import Refused, refusal, response
from deployments.entry import SLUG
from store import tokens
from store.tokens import Caller

KNOWN_SECONDS = 1.0
"""For how long a token is not looked up again; as long may one that was revoked still do."""
FAILURES = 10
WINDOW_SECONDS = 60.0
"""After so many bad tokens within so many seconds, an address is told to wait."""

_KEPT = 10_000

_bearer = HTTPBearer(
    auto_error=False, description="A token, as `rota token create` shows it: `rota_...`"
)


@dataclass
class Guard:
    """Knows tokens, and who has tried too many that are none.

    Attributes:
        engine: The database.
    """

    engine: AsyncEngine
    _known: OrderedDict[str, tuple[Caller, float]] = field(default_factory=OrderedDict)
    _failures: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)

    async def caller(self, secret: str, address: str) -> Caller:
        """Return who holds a token.

        Raises:
            Refused: 401, nobody does; 429, too many were tried from this address.
        """
        now = time.monotonic()
        if known := self._known.get(secret):
            found, looked = known
            if now - looked < KNOWN_SECONDS:
                return found
        # Looked up in any case: whoever guesses from behind the same proxy locks nobody out.
        looked_up = await tokens.caller(self.engine, secret) if _is_token(secret) else None
        if looked_up is None:
            self._known.pop(secret, None)
            if (wait := self._wait(address, now)) > 0:
                raise Refused(
                    429,
                    f"Too many bad tokens from this address; wait {wait:.0f} s.",
                    headers={"Retry-After": f"{wait:.0f}"},
                )
            self._note_failure(address, now)
            raise unknown()
        self._known[secret] = (looked_up, now)
        self._known.move_to_end(secret)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return looked_up

    def _wait(self, address: str, now: float) -> float:
        failed = self._failures.get(address, deque())
        while failed and now - failed[0] > WINDOW_SECONDS:
            failed.popleft()
        return WINDOW_SECONDS - (now - failed[0]) + 1 if len(failed) >= FAILURES else 0.0

    def _note_failure(self, address: str, now: float) -> None:
        self._failures.setdefault(address, deque(maxlen=FAILURES)).append(now)
        self._failures.move_to_end(address)
        if len(self._failures) > _KEPT:
            self._failures.popitem(last=False)


def _is_token(secret: str) -> bool:
    return secret.startswith(tokens.PREFIX) and len(secret) <= 100


def unknown() -> Refused:
    """Return the refusal of whoever has not said who they are."""
    return Refused(
        401,
        "A token is needed, as `Authorization: Bearer rota_...`; `rota token create` makes one.",
        headers={"WWW-Authenticate": "Bearer"},
    )


class Gate:
    """Turns away who holds no token, before anything of a body is read.

    Args:
        app: What answers.
        base: What the paths begin with that need one.
        free: Paths among them that need none.
    """

    def __init__(self, app: App, base: str, free: frozenset[str]) -> None:
        self._app = app
        self._base = base
        self._free = free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with its caller."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(self._base) and path not in self._free:
            try:
                scope.setdefault("state", {})["caller"] = await self._known(scope)
            except Exception as error:
                await response(refusal(error), path)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _known(self, scope: Scope) -> Caller:
        said = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, secret = (said[0] if said else b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise unknown()
        client = scope.get("client")
        guard: Guard = scope["app"].state.rota.guard
        return await guard.caller(secret.strip(), client[0] if client else "?")


async def _caller(
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    found: Caller = request.state.caller
    return found


@dataclass(frozen=True)
class _Allowed:
    """A dependency that lets these roles pass."""

    roles: frozenset[str]

    async def __call__(self, caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        if caller.role not in self.roles:
            raise Refused(
                403,
                f"A token of the role {caller.role} may not do this; it takes "
                f"{' or '.join(sorted(self.roles))}.",
            )
        return caller


Reader = Annotated[Caller, Depends(_Allowed(frozenset({"viewer", "editor", "admin"})))]
Editor = Annotated[Caller, Depends(_Allowed(frozenset({"editor", "admin"})))]
Admin = Annotated[Caller, Depends(_Allowed(frozenset({"admin"})))]
Recorder = Annotated[Caller, Depends(_Allowed(frozenset({"worker", "editor", "admin"})))]
Worker = Annotated[Caller, Depends(_Allowed(frozenset({"worker", "admin"})))]
Anybody = Annotated[Caller, Depends(_caller)]


def everywhere(caller: Caller) -> None:
    """See that a token is good for all tenants.

    Raises:
        Refused: 403, it is good for one.
    """
    if caller.tenant is not None:
        raise Refused(
            403, f"This concerns all tenants, and the token is good for {caller.tenant} only."
        )


HARMLESS_VARIABLES: Mapping[str, tuple[object, ...]] = {
    "isolation": ("none", "process"),
    "restart": (True, False),
}
ABOUT_ALL = frozenset({"reconcile"})
"""Duties that concern all tenants."""


def check_power(
    caller: Caller, now: Mapping[str, Any], wanted: Mapping[str, Any], duty: str, where: str = ""
) -> None:
    """See that a caller may give a definition this duty and these job variables.

    Most variables (a command, an environment, an image) run what they name on the worker, which
    works for other tenants too.

    Args:
        caller: Who asks.
        now: The job variables that the definition has.
        wanted: Those that it is to have.
        duty: The duty that it is to have.
        where: What stands before the field's name in the refusal.

    Raises:
        Refused: 403, that takes an administrator of all tenants.
    """
    if caller.role == "admin" and caller.tenant is None:
        return
    if duty in ABOUT_ALL:
        raise _beyond(f"{where}duty", "this duty concerns all tenants")
    for name in sorted({*now, *wanted}):
        harmless = name not in wanted or wanted[name] in HARMLESS_VARIABLES.get(name, ())
        if now.get(name) != wanted.get(name) and not (name in HARMLESS_VARIABLES and harmless):
            field = f"{where}job_variables.{name[:60]}"
            raise _beyond(field, "this decides what runs on the worker")


def _beyond(field: str, why: str) -> Refused:
    said = f"{why}, and takes an admin token of all tenants"
    return Refused(403, f"{field}: {said}.", [(field, said)])


async def _tenant(
    tenant: Annotated[
        str, Path(description="The tenant's slug", examples=["acme"], max_length=200)
    ],
    caller: Annotated[Caller, Depends(_caller)],
) -> str:
    """Return the tenant of the path, if the caller may know of it.

    Whether another tenant's exists is not looked up at all, so that nothing tells it.
    """
    foreign = caller.tenant is not None and caller.tenant != tenant
    if foreign or not re.fullmatch(SLUG, tenant):
        raise no_tenant(tenant)
    return tenant


TenantSlug = Annotated[str, Depends(_tenant)]


def no_tenant(slug: str) -> Refused:
    """Return the refusal of a tenant that is not there, or another's."""
    return Refused(404, f"There is no tenant {slug[:63]!r}.")
