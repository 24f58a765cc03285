"""Events of an exchange of RabbitMQ: who is blocked is suspended, who is unblocked is resumed.

    organization_exchange --blocked, unblocked--> rota.events
                                                       |
                 read, applied, acked <----------------+----> rota.events.dead: garbage
                                                       |
                                                       +----> rota.events.retry: what failed
                                                                |  ^  |
                 read, applied, acked <---- 10 s later ---------+--+  +----> rota.events.dead:
                                                         failed again          for the 11th time

A message is acked when what became of it is written: in the definitions database, or by the
broker, which has confirmed the copy in the next queue. Whatever dies before that, the message
comes again; what is done twice does nothing the second time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NoReturn

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue, HeadersType
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from sqlalchemy.ext.asyncio import AsyncEngine
from yarl import URL

from api.event_message import BadEvent, Event, read
from store import database, suspensions
from store.suspensions import Outcome

logger = logging.getLogger("rota")

EXCHANGE = "organization_exchange"
KEYS = ("blocked", "unblocked")

QUEUE = "rota.events"
RETRY = "rota.events.retry"
DEAD = "rota.events.dead"

KEY_HEADER = "x-rota-key"
"""The routing key that a message came with; in the retry queue it has another."""
TRIES_HEADER = "x-rota-tries"
"""How often it has failed."""
DUE_HEADER = "x-rota-due"
"""When it is tried again, in milliseconds since 1970: a fraction would lose its last digits."""
ERROR_HEADER = "x-rota-error"

TRIES = 10
RETRY_SECONDS = 10.0
DEAD_SECONDS = 7 * 24 * 3600

APPLY_SECONDS = 30.0
"""How long the database may take for one event."""
ANSWER_SECONDS = 30.0
"""How long the broker may take for one answer."""
NAP_SECONDS = 1.0
LONGEST_NAP_SECONDS = 15.0

WHO = "events"
"""The name in the audit."""

Inbox = asyncio.Queue[AbstractIncomingMessage]


class Events:
    """A consumer of the exchange, for as long as it runs."""

    def __init__(self, url: URL, engine: AsyncEngine, retry_seconds: float = RETRY_SECONDS) -> None:
        self.url = url
        self.engine = engine
        self.retry_seconds = retry_seconds
        self._nap = NAP_SECONDS

    async def run(self) -> None:
        """Consume until cancelled, however often the broker goes away."""
        where = self.url.with_password(None).with_query(None)
        said = ""
        while True:
            try:
                await self._consume()
            except* CONNECTION_EXCEPTIONS as errors:
                error = errors.exceptions[0]
                reason = str(error).rstrip(".") or type(error).__name__
            if self._nap == NAP_SECONDS or reason != said:
                logger.warning("The broker at %s: %s. Connecting again.", where, reason)
            said = reason
            await asyncio.sleep(self._nap)
            self._nap = min(self._nap * 2, LONGEST_NAP_SECONDS)

    async def _consume(self) -> NoReturn:
        """Consume on a connection made for that.

        Whatever the broker refuses or ends, everything is made anew, so there is one way back.

        Raises:
            ExceptionGroup: Of one of `CONNECTION_EXCEPTIONS`, in the end.
        """
        async with await aio_pika.connect(self.url, timeout=ANSWER_SECONDS) as connection:
            channel = await connection.channel(on_return_raises=True)
            await channel.set_qos(prefetch_count=1)
            gone: asyncio.Queue[str] = asyncio.Queue()
            channel.close_callbacks.add(
                lambda _, error: gone.put_nowait(f"it has ended the connection ({error})")
            )
            transport = await channel.get_underlay_channel()
            transport.on_consumer_cancel_callbacks.add(
                lambda _: gone.put_nowait("somebody has deleted a queue")
            )
            async with asyncio.TaskGroup() as group:
                for queue in await declare(channel):
                    inbox: Inbox = asyncio.Queue()
                    await queue.consume(inbox.put)
                    group.create_task(self._work(channel, inbox))
                logger.info("Consuming %s.", QUEUE)
                self._nap = NAP_SECONDS
                raise ConnectionError(await gone.get())

    async def _work(self, channel: AbstractChannel, inbox: Inbox) -> NoReturn:
        while True:
            message = await inbox.get()
            due = message.headers.get(DUE_HEADER)
            if isinstance(due, int):
                # No longer than that, whatever somebody has done to a clock.
                await asyncio.sleep(min(due / 1000 - time.time(), self.retry_seconds))
            await self._take(channel, message)

    async def _take(self, channel: AbstractChannel, message: AbstractIncomingMessage) -> None:
        key = str(message.headers.get(KEY_HEADER, message.routing_key))
        try:
            event = _read(key, message.body)
            async with asyncio.timeout(APPLY_SECONDS):
                await self._apply(key, event)
        except BadEvent as error:
            logger.warning("An event is put into %s: %s.", DEAD, error)
            await _put(channel, DEAD, message, {KEY_HEADER: key, ERROR_HEADER: str(error)})
        except Exception as error:
            await self._fail(channel, message, key, error)
        await message.ack()

    async def _apply(self, key: str, event: Event) -> None:
        slug, at = event.org_id, event.timestamp
        if key == "blocked":
            outcome = await suspensions.block(self.engine, slug, at, event.reason, WHO)
        else:
            outcome = await suspensions.unblock(self.engine, slug, at, WHO)
        match outcome:
            case Outcome.DONE:
                logger.info("The tenant %s is %s since %s.", slug, key, at)
            case Outcome.OUTDATED:
                logger.info("The tenant %s: %s at %s is no news.", slug, key, at)
            case Outcome.UNKNOWN:
                logger.warning("There is no tenant %r, which is %s.", slug, key)

    async def _fail(
        self,
        channel: AbstractChannel,
        message: AbstractIncomingMessage,
        key: str,
        error: Exception,
    ) -> None:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        found = message.headers.get(TRIES_HEADER)
        tries = found if isinstance(found, int) else 0
        if tries >= TRIES:
            logger.error("An event is put into %s after %d tries: %s", DEAD, tries + 1, reason)
            await _put(channel, DEAD, message, {KEY_HEADER: key, ERROR_HEADER: reason})
            return
        logger.warning(
            "An event is tried again in %g s (%d of %d): %s",
            self.retry_seconds,
            tries + 1,
            TRIES,
            reason,
            # What does not pass by itself is a bug, and somebody has to see where.
            exc_info=None if isinstance(error, database.AWAY) else error,
        )
        due = round((time.time() + self.retry_seconds) * 1000)
        headers: HeadersType = {KEY_HEADER: key, TRIES_HEADER: tries + 1, DUE_HEADER: due}
        await _put(channel, RETRY, message, headers)


def _read(key: str, body: bytes) -> Event:
    if key not in KEYS:
        raise BadEvent(f"routing key: {key!r:.80} is neither of {', '.join(KEYS)}")
    return read(body)


async def declare(channel: AbstractChannel) -> list[AbstractQueue]:
    """Make the exchange and the queues, unless they are there; return those to consume."""
    exchange = await channel.declare_exchange(EXCHANGE, ExchangeType.DIRECT, durable=True)
    queue = await channel.declare_queue(QUEUE, durable=True)
    for key in KEYS:
        await queue.bind(exchange, key)
    retry = await channel.declare_queue(RETRY, durable=True)
    await channel.declare_queue(
        DEAD, durable=True, arguments={"x-message-ttl": DEAD_SECONDS * 1000}
    )
    return [queue, retry]


async def _put(
    channel: AbstractChannel, queue: str, message: AbstractIncomingMessage, headers: HeadersType
) -> None:
    """Put a copy of a message into a queue.

    Raises:
        aio_pika.exceptions.DeliveryError: The queue is gone.
        TimeoutError: The broker does not confirm it.
    """
    copy = Message(
        message.body,
        headers=headers,
        content_type=message.content_type,
        delivery_mode=DeliveryMode.PERSISTENT,
    )
    await channel.default_exchange.publish(copy, queue, timeout=ANSWER_SECONDS)
