"""`rota serve`: the HTTP API, in one process."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
from collections.abc import Callable

import uvicorn

from api.app import make
from deployments.gateway import Gateway
from scripts import session
from scripts.embedding import Embedders
from store import tokens
from store.settings import Settings


def serve(settings: Settings) -> int:
    """Answer until SIGTERM or Ctrl-C; return the exit code."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings) -> int:
    """Answer until SIGTERM or Ctrl-C.

    Raises:
        session.Refused: It would listen beyond this machine, and nobody has a token.
    """
    async with session.database(settings, quick=True) as engine, Gateway.connect() as gateway:
        if not _is_loopback(settings.api_host) and not await tokens.any_valid(engine):
            raise session.Refused(
                f"There is no token yet, so nobody could use the API on {settings.api_host}; make "
                "one with `rota token create --role admin`, or listen on 127.0.0.1."
            )
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        app = await make(settings, engine, gateway, Embedders().embed)
        # What is loaded stays: looking through all of it held every request up for 0.1 s.
        gc.collect()
        gc.freeze()
        config = uvicorn.Config(
            app,
            host=settings.api_host,
            port=settings.api_port,
            access_log=False,
            server_header=False,
            # Of whom nobody has said so, a header that names the caller is not believed.
            proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
            log_config=None,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=10,
        )
        server = uvicorn.Server(config)
        await server.serve()
    return 0 if server.started else 1


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
