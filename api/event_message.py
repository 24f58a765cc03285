"""What an event says: JSON, or the protobuf that Semaphore sends."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from deployments.entry import SLUG, Instant, Text

REASONS = ("INSUFFICIENT_FUNDS", "ACCOUNT_AT_RISK", "VIOLATION_OF_TOS")
"""Semaphore's `Organization.Suspension.Reason`, by number."""

_BYTES = 2  # the wire type of a string


class BadEvent(Exception):
    """A message is no event; the text names the field and the value."""


class Event(BaseModel):
    """An organization was blocked or unblocked."""

    model_config = ConfigDict(frozen=True, strict=True)

    org_id: str = Field(pattern=f"^{SLUG}$", max_length=63)
    timestamp: Instant
    reason: Text | None = Field(None, max_length=1024)


def read(body: bytes) -> Event:
    """Return what a message says.

    It is JSON if it begins with a brace, which the other form cannot: there the first byte says
    which field follows, and no field has that number.

    Raises:
        BadEvent: It is neither, or a field is missing or cannot be.
    """
    try:
        said = from_json(body) if body.lstrip().startswith(b"{") else _from_protobuf(body)
        return Event.model_validate(said)
    except ValidationError as error:
        one = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in one["loc"])
        value = "" if one["type"] == "missing" else f"{one['input']!r:.80}: "
        raise BadEvent(f"{field}: {value}{one['msg']}") from None
    except (ValueError, DecodeError) as error:
        raise BadEvent(f"neither JSON nor protobuf: {error}") from None


def _from_protobuf(body: bytes) -> dict[str, Any]:
    message = _MESSAGE()
    message.ParseFromString(body)
    said = {"org_id": message.org_id, "reason": _reason(message)}
    if message.HasField("timestamp"):
        said["timestamp"] = message.timestamp.ToDatetime(tzinfo=UTC)
    return said


def _reason(message: Any) -> str:
    # Others may send a text in the field in which Semaphore sends a number.
    unknown: Any = UnknownFieldSet(message)  # iterable, which its stubs do not say
    for field in unknown:
        if field.field_number == 3 and field.wire_type == _BYTES:
            return bytes(field.data).decode()
    number = message.reason
    return REASONS[number] if 0 <= number < len(REASONS) else f"reason {number}"


def _message() -> Any:
    """Return the class of Semaphore's `OrganizationBlocked`.

    Its `OrganizationUnblocked` is the same without a reason.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="rota/organization_blocked.proto",
        package="rota",
        syntax="proto3",
        dependency=[timestamp_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="OrganizationBlocked")
    message.field.add(name="org_id", number=1, type=kinds.TYPE_STRING)
    message.field.add(
        name="timestamp",
        number=2,
        type=kinds.TYPE_MESSAGE,
        type_name=".google.protobuf.Timestamp",
    )
    # An enum, on the wire: a number that is not known here can be read all the same.
    message.field.add(name="reason", number=3, type=kinds.TYPE_INT32)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("rota.OrganizationBlocked"))


_MESSAGE = _message()
