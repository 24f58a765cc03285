"""`rota watch`: the loop that keeps Prefect in step, as a process that can be told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal

from sqlalchemy.engine import URL

from deployments.gateway import Gateway
from deployments.policy import POLICIES
from deployments.watch import AWAY, LONGEST_NAP_SECONDS, NAP_SECONDS, Watch
from scripts import errors, logs, session
from store import database
from store.settings import Settings

logger = logging.getLogger("rota")


async def watch(settings: Settings, policy: str) -> int:
    """Follow the definitions until SIGTERM or SIGINT, however long anything is away."""
    logs.to_stdout(logger)
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with Gateway.connect() as gateway:
            address = await _ready(settings, gateway)
            async with database.opened(address) as engine:
                await Watch(address, engine, gateway, settings, POLICIES[policy]).run()
    except asyncio.CancelledError:
        logger.info("Stopped.")
    return 0


async def _ready(settings: Settings, gateway: Gateway) -> URL:
    """Return the database's address as soon as it answers and its tables are there."""
    nap = NAP_SECONDS
    said = ""
    while True:
        try:
            address = await session.resolve(settings, gateway)
            async with database.opened(address) as engine:
                await session.check_tables(engine)
            return address
        except (*AWAY, session.Refused) as error:
            reason = errors.sentence(error) or type(error).__name__
        if reason != said:
            logger.warning("%s Waiting.", reason)
            said = reason
        await asyncio.sleep(nap)
        nap = min(nap * 2, LONGEST_NAP_SECONDS)
