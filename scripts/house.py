"""What `rota up` sets up between its processes, in which order, and what it shows."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from blocks import Records, WorkflowService
from deployments.block import from_block
from deployments.gateway import Gateway
from scripts import screen
from scripts.roster_file import load
from scripts.supervise import (
    CannotStart,
    Child,
    announce,
    api_url,
    environment,
    stop,
    wait_for_port,
)
from store import database, embedded, roster, tokens
from store.settings import Settings
from workers import InlineWorker

START_SECONDS = 120.0

GRACE_SECONDS = 1.5
"""How long runs may go on once everything is to stop; what is left is handed back."""

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "roster.yaml"


class House:
    """The processes of one machine, and what stands between them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.env = environment(settings)
        self.children: list[Child] = []
        self.keepers: list[asyncio.Task[None]] = []

    async def start(
        self,
        name: str,
        *arguments: str,
        **env: str,
    ) -> Child:
        """Start a child and keep it running."""
        log = self.settings.home.resolve() / "logs" / f"{name}.log"
        child = Child(name, arguments, self.env | env, log)
        await child.start()
        self.children.append(child)
        self.keepers.append(asyncio.create_task(child.keep(screen.say)))
        return child

    async def stop(self) -> None:
        """Stop everything, the worker first."""
        for keeper in self.keepers:
            keeper.cancel()
        await asyncio.gather(*self.keepers, return_exceptions=True)
        # The worker hands back what it has not ended, for which it needs the server.
        workers = [child for child in self.children if child.name == "worker"]
        await stop(workers, GRACE_SECONDS + 2)
        await stop([child for child in self.children[::-1] if child not in workers])


async def run(settings: Settings) -> int:
    """Bring up the house, show what happens in it, and stop it when asked to."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    main = asyncio.create_task(_run(settings))
    waiting = asyncio.create_task(asked.wait())
    await asyncio.wait({main, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    main.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await main
    return 0


async def _run(settings: Settings) -> None:
    await wait_for_port(settings.prefect_port, "Prefect's server", "prefect-port")
    await wait_for_port(settings.service_port, "the example workflow service", "service-port")
    await wait_for_port(settings.api_port, "the HTTP API", "api-port")
    house = House(settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(house.stop)
        port = str(settings.prefect_port)
        screen.say("Starting Prefect's server ...")
        server = await house.start("prefect-server", "-m", "scripts.rota", "server", "--port", port)
        await _healthy(server, api_url(settings))
        gateway = await stack.enter_async_context(Gateway.connect())
        address = await stack.enter_async_context(_database(settings, gateway))
        engine = await stack.enter_async_context(database.opened(address))
        await database.upgrade(engine)
        known = address.render_as_string(hide_password=False)
        house.env["ROTA_DATABASE_URL"] = known
        await _furnish(house, settings, gateway)
        if not (await roster.read(engine)).definitions:
            await load(engine, EXAMPLE)
        await house.start("watch", "-m", "scripts.rota", "watch")
        await _keep_token(settings, engine)
        await _keep_records(settings, engine)
        await house.start("api", "-m", "scripts.rota", "serve")
        worker = ("-m", "prefect", "worker", "start", "--pool", settings.work_pool)
        await house.start(
            "worker", *worker, "--name", "rota-up", ROTA_WORKER_GRACE_SECONDS=str(GRACE_SECONDS)
        )
        announce(settings, known)
        stack.callback(settings.pid_file.unlink, missing_ok=True)
        await screen.show(settings, engine, gateway)


async def _healthy(server: Child, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with httpx.AsyncClient(timeout=5) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(f"{url}/health")).status_code == httpx.codes.OK:
                    return
            if server.process is not None and server.process.returncode is not None:
                break
            await asyncio.sleep(0.2)
    raise CannotStart(f"Prefect's server does not start; {server.log} says why.")


@asynccontextmanager
async def _database(settings: Settings, gateway: Gateway) -> AsyncIterator[URL]:
    """Yield the user's own database where there is one, else the embedded server's."""
    own = settings.database_url
    if own:
        yield database.parse(own.get_secret_value())
        return
    if named := await from_block():
        yield named
        return
    screen.say("Starting the definitions database ...")
    server = await asyncio.to_thread(embedded.start, settings.pgdata)
    guard = asyncio.create_task(_guard(settings))
    try:
        found = embedded.running_url(settings.pgdata)
        assert found is not None
        yield found
    finally:
        guard.cancel()
        await asyncio.to_thread(server.stop)


async def _guard(settings: Settings) -> None:
    """Start the embedded server again should it die."""
    while True:
        await asyncio.sleep(1)
        if embedded.running_url(settings.pgdata) is None:
            screen.say("The definitions database ended; starting it again")
            try:
                await asyncio.to_thread(embedded.start, settings.pgdata)
            except (subprocess.SubprocessError, OSError) as error:
                screen.say(f"It does not start: {error}; {settings.pgdata / 'log'} says why")
                await asyncio.sleep(10)


async def _furnish(house: House, settings: Settings, gateway: Gateway) -> None:
    """See to the work pool, the example service, and the block that leads there."""
    if settings.work_pool not in await gateway.work_pools():
        template = InlineWorker.get_default_base_job_template()
        await gateway.create_work_pool(settings.work_pool, InlineWorker.type, template)
    token = _token(settings)
    arguments = ("-m", "examples.workflow_service", "--port", str(settings.service_port))
    await house.start("workflow-service", *arguments, WORKFLOW_SERVICE_TOKEN=token)
    url = f"http://127.0.0.1:{settings.service_port}"
    if await _is_ours(settings):
        await WorkflowService(base_url=url, token=token).asave("default", overwrite=True)


async def _is_ours(settings: Settings) -> bool:
    """Whether the block is missing, or still the one that leads to the example service."""
    try:
        block: Any = await WorkflowService.aload("default")
    except ValueError:
        return True
    return str(block.base_url).startswith("http://127.0.0.1:") and (
        block.token is not None and block.token.get_secret_value() == _token(settings)
    )


async def _keep_token(settings: Settings, engine: AsyncEngine) -> None:
    """See that the home has a token of an administrator that is still good."""
    path = settings.api_token_file
    known = path.read_text().strip() if path.exists() else ""
    if known and await tokens.caller(engine, known) is not None:
        return
    path.touch(mode=0o600)
    secret, _ = await tokens.create(engine, "up", "admin", who="rota up")
    path.write_text(f"{secret}\n")


async def _keep_records(settings: Settings, engine: AsyncEngine) -> None:
    """See that flows have a block that leads to this API, with a token of their own."""
    url = f"http://127.0.0.1:{settings.api_port}"
    try:
        block: Any = await Records.aload("default")
    except ValueError:
        secret = None
    else:
        if not str(block.base_url).startswith("http://127.0.0.1:"):
            return  # somebody has it lead elsewhere
        secret = block.token.get_secret_value()
        if await tokens.caller(engine, secret) is None:
            secret = None
        elif str(block.base_url).rstrip("/") == url:
            return
    if secret is None:
        secret, _ = await tokens.create(engine, "records", "worker", who="rota up")
    await Records(base_url=url, token=secret).asave("default", overwrite=True)


def _token(settings: Settings) -> str:
    path = settings.home.resolve() / "service.token"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()
