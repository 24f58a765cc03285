"""`rota events`: the consumer of a RabbitMQ exchange, as a process that can be told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL

from scripts import errors, logs, session
from store import database
from store.settings import Settings

if TYPE_CHECKING:
    import yarl

logger = logging.getLogger("rota")

READY_SECONDS = 5.0
"""How often the database is looked for until it is there."""


async def consume(settings: Settings) -> int:
    """Consume until SIGTERM or SIGINT, however long the broker is away.

    Raises:
        scripts.session.Refused: The extra is not installed, or no broker is named.
        store.database.DatabaseError: No definitions database is named.
    """
    try:
        from api.events import Events
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("aio_pika", "google", "yarl"):
            raise
        raise session.Refused(
            f"`rota events` needs the extra `rabbitmq` ({error.name} is missing); install the "
            "project with it: pip install --constraint constraints.txt '.[rabbitmq]'"
        ) from error
    broker = _broker(settings)
    logs.to_stdout(logger)
    # It logs what it raises, at every attempt to connect; `Events` says it once.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with database.opened(await _ready(settings)) as engine:
            await Events(broker, engine).run()
    except asyncio.CancelledError:
        logger.info("Stopped.")
    return 0


def _broker(settings: Settings) -> yarl.URL:
    import yarl

    if settings.rabbitmq_url is None:
        raise session.Refused(
            "ROTA_RABBITMQ_URL is not set; name the broker as amqp://user:password@host:5672/vhost"
        )
    try:
        found = yarl.URL(settings.rabbitmq_url.get_secret_value())
        named = found.scheme in ("amqp", "amqps") and found.host
    except ValueError:
        named = None
    if not named:
        # The text may hold a password, so it is not repeated.
        raise session.Refused(
            "ROTA_RABBITMQ_URL is no broker's address; write it as "
            "amqp://user:password@host:5672/vhost, or amqps:// for TLS"
        )
    return found


async def _ready(settings: Settings) -> URL:
    """Return the database's address as soon as it answers and its tables are there.

    Events that come before that stay in their queue, instead of being tried in vain.
    """
    said = ""
    while True:
        try:
            address = await session.find(settings)
            async with database.opened(address) as engine:
                await session.check_tables(engine)
            return address
        except (*database.AWAY, session.Refused) as error:
            reason = errors.sentence(error) or type(error).__name__
        if reason != said:
            logger.warning("%s Waiting.", reason)
            said = reason
        await asyncio.sleep(READY_SECONDS)
