"""What is read as an event, and what is not."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.event_message import BadEvent, Event, read

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# Written out by hand from Semaphore's definition: org_id 1, timestamp 2 {seconds 1, nanos 2},
# reason 3.
ORG = b"\x0a\x04acme"
AT = b"\x12\x06\x08\xc0\xd4\x90\xcd\x06"


def as_json(**said: Any) -> bytes:
    return json.dumps({"org_id": "acme", "timestamp": "2026-03-01T12:00:00Z"} | said).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (as_json(), None),
        (as_json(timestamp="2026-03-01T13:00:00+01:00", reason="invoice open"), "invoice open"),
        (as_json(reason=None, more="is left out"), None),
        (b" \n" + as_json(), None),
        (ORG + AT, "INSUFFICIENT_FUNDS"),
        (ORG + AT + b"\x18\x01", "ACCOUNT_AT_RISK"),
        (ORG + AT + b"\x18\x02", "VIOLATION_OF_TOS"),
        (ORG + AT + b"\x18\x07", "reason 7"),
        (ORG + AT + b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "reason -1"),
        (ORG + AT + b"\x1a\x05a bug", "a bug"),
        (AT + b"\x22\x04more" + ORG, "INSUFFICIENT_FUNDS"),
    ],
)
def test_both_forms_are_read(body: bytes, reason: str | None):
    assert read(body) == Event(org_id="acme", timestamp=NOON, reason=reason)


def test_fractions_of_a_second_are_kept():
    at = NOON.replace(microsecond=123456)
    fraction = b"\x12\x0b\x08\xc0\xd4\x90\xcd\x06\x10\x95\x9a\xef\x3a"
    assert read(as_json(timestamp="2026-03-01T12:00:00.123456789Z")).timestamp == at
    assert read(ORG + fraction).timestamp == at


@pytest.mark.parametrize("length", [9, 11, 13, 32, 36])
def test_a_name_whose_length_reads_as_white_space_is_still_protobuf(length: int):
    name = b"a" * length
    assert read(b"\x0a" + bytes([length]) + name + AT).org_id == name.decode()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "org_id: ''"),
        (AT, "org_id: ''"),
        (ORG, "timestamp: Field required"),
        (b"garbage", "neither JSON nor protobuf"),
        (b"[]", "neither JSON nor protobuf"),
        (b"{", "neither JSON nor protobuf"),
        (b'{"a":' * 100_000, "neither JSON nor protobuf"),
        (b"{}", "org_id: Field required"),
        (as_json(org_id="Acme"), "org_id: 'Acme'"),
        (as_json(org_id="acme\n"), r"org_id: 'acme\\n'"),
        (as_json(org_id="a" * 64), "org_id: 'aaa"),
        (as_json(org_id=7), "org_id: 7"),
        (as_json(timestamp="yesterday"), "timestamp: 'yesterday': .* is no date and time"),
        (as_json(timestamp="2026-03-01T12:00:00"), "timestamp: .* has no time zone"),
        (as_json(timestamp="9999-03-01T12:00:00Z"), "timestamp: .* is not from the year"),
        (as_json(timestamp=1772366400), "timestamp: 1772366400"),
        (as_json(reason=7), "reason: 7"),
        (as_json(reason="a\0"), "reason: .* NUL"),
        (as_json(reason="a" * 1025), "reason: 'aaa"),
        (as_json(reason="\ud800"), "neither JSON nor protobuf"),
        (ORG + AT + b"\x1a\x02\xff\xfe", "neither JSON nor protobuf"),
        (b"\x0a\x02\xff\xfe" + AT, "neither JSON nor protobuf"),
        (
            ORG + b"\x12\x0a\x08" + b"\xff" * 8 + b"\x7f",
            "neither JSON nor protobuf",
        ),  # seconds: 2**63 - 1
        (
            ORG + b"\x12\x06\x10\xff\xff\xff\xff\x07",
            "neither JSON nor protobuf",
        ),  # nanos: 2**31 - 1
    ],
)
def test_what_is_no_event_is_refused_with_the_field(body: bytes, why: str):
    with pytest.raises(BadEvent, match=why) as refused:
        read(body)
    assert len(str(refused.value)) < 300


@given(
    st.one_of(st.binary(), st.binary().map(lambda rest: ORG + AT + rest), st.text().map(str.encode))
)
def test_whatever_comes_is_an_event_or_is_refused(body: bytes):
    with suppress(BadEvent):
        assert isinstance(read(body), Event)
