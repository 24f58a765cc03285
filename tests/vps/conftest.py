"""An account at Time4VPS, a clock for whoever waits for it, and Rota's API to write it to."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from blocks.outgoing import Backoff
from blocks.time4vps import Time4VPS
from deployments.gateway import Gateway
from tests.vps import fake_time4vps, serving
from tests.vps.fake_time4vps import PASSWORD, USERNAME, FakeTime4VPS
from tests.vps.serving import Rota


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []
        self.backoff = Backoff(clock=lambda: self.now, sleep=self.sleep, jitter=lambda: 1.0)

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def account() -> AsyncIterator[FakeTime4VPS]:
    async with fake_time4vps.serving() as account:
        yield account


@pytest.fixture
def block(account: FakeTime4VPS) -> Callable[..., Time4VPS]:
    """Gives what makes a block of the account."""

    def make(**changes: object) -> Time4VPS:
        fields = {"base_url": account.address, "username": USERNAME, "password": PASSWORD}
        return Time4VPS(**{**fields, **changes})

    return make


@pytest.fixture
async def rota(
    engine: AsyncEngine, gateway: Gateway, sql: asyncpg.Connection
) -> AsyncIterator[Rota]:
    async with serving.serving(engine, gateway, sql) as rota:
        yield rota


class Lines(logging.Handler):
    """What runs have logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname}: {record.getMessage()}")

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def log(prefect_server: str) -> Iterator[Lines]:
    """Yields the lines that runs log from now on."""
    lines, logger = Lines(), logging.getLogger("prefect.flow_runs")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)
