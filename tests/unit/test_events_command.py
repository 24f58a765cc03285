"""What `rota events` says before it begins."""

import asyncio
import sys

import pytest
from pydantic import SecretStr

from scripts import events
from scripts.session import Refused
from store.settings import Settings

REMEDY = "amqp://user:password@host:5672/vhost"


def consume(url: str | None) -> None:
    asyncio.run(events.consume(Settings(rabbitmq_url=None if url is None else SecretStr(url))))


@pytest.mark.parametrize("missing", ["aio_pika", "google.protobuf", "yarl"])
def test_a_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "api.events", raising=False)
    monkeypatch.delitem(sys.modules, "api.event_message", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(Refused, match=rf"extra `rabbitmq` \({missing} is missing\); .*\.\[rabb"):
        consume("amqp://localhost")


def test_the_broker_has_to_be_named():
    with pytest.raises(Refused, match=f"ROTA_RABBITMQ_URL is not set; .* {REMEDY}"):
        consume(None)


@pytest.mark.parametrize("url", ["", "localhost", "http://u:secret@host", "amqp://u:secret@h:x/"])
def test_a_bad_address_is_not_repeated(url: str):
    with pytest.raises(Refused, match=REMEDY) as refused:
        consume(url)
    assert "secret" not in str(refused.value)
