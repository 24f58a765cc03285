"""Telling people what the records have for them, through Prefect's own notification blocks."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from pydantic import BaseModel, ValidationError

from blocks.records import RecordsError, TenantRecords
from flows.blocks_by_name import ForeignBlock, check_owner

TELL_SECONDS = 30


class _Notice(BaseModel):
    subject: str
    text: str
    blocks: list[str] | None = None


async def tell(acme: TenantRecords, blocks: Sequence[str], *, addressed: bool = False) -> int:
    """Tell people what is new, each thing once; return the number of things told.

    A notice is claimed before it is sent, so that nobody else sends it, and one that cannot be
    sent is not sent again. A run that is killed loses at most the one that it is sending. What
    goes wrong is logged, and raises nothing. A notice that says itself where it goes, goes there
    only.

    Args:
        acme: The records of the tenant that it concerns.
        blocks: The full names of the notification blocks to send through, such as
            `slack-webhook/ops`. Without any, the notices stay for a flow that has some.
        addressed: Whether those that say themselves where they go are sent without any, too.

    """
    known: dict[str, NotificationBlock | None] = {}
    usable = await _ways(blocks, known, acme.tenant)
    if not (usable or addressed):
        return 0
    which = {"limit": 1} if usable else {"limit": 1, "addressed": True}
    told = 0
    while True:
        try:
            claimed = await acme.post("notices", "claim", body=which)
        except RecordsError as error:
            get_run_logger().error("Nobody can be told what is new: %s", error)
            return told
        if not claimed["notices"]:
            return told
        for one in claimed["notices"]:
            told += await _told(one, usable, known, acme.tenant)


Ways = Sequence[tuple[str, NotificationBlock]]


async def _ways(
    names: Sequence[str], known: dict[str, NotificationBlock | None], tenant: str
) -> Ways:
    """Return the blocks of these names that there are; what was loaded before is known."""
    for name in names:
        if name not in known:
            known[name] = await _load(name, tenant)
    return [(name, way) for name in names if (way := known[name])]


async def _told(
    one: Any, usable: Ways, known: dict[str, NotificationBlock | None], tenant: str
) -> bool:
    """Send one notice every way; return whether one of them took it."""
    try:
        notice = _Notice.model_validate(one)
    except ValidationError:
        get_run_logger().error("A notice has no subject or no text, and is not sent: %r", one)
        return False
    ways = usable if notice.blocks is None else await _ways(notice.blocks, known, tenant)
    return any([await _sent(notice, name, way) for name, way in ways])


async def _sent(notice: _Notice, name: str, way: NotificationBlock) -> bool:
    try:
        with way.raise_on_failure():
            async with asyncio.timeout(TELL_SECONDS):
                await way.notify(body=notice.text, subject=notice.subject)
    except Exception as error:
        # The address of a webhook is a secret, and stands in the text of most errors.
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else ""
        get_run_logger().error(
            "%s did not take %r: %s", name, notice.subject, f"{type(error).__name__} {status}"
        )
        return False
    return True


async def _load(name: str, tenant: str) -> NotificationBlock | None:
    try:
        check_owner(name, tenant)
        block = await Block.aload(name)
    except ForeignBlock as foreign:
        get_run_logger().error("notify: %s", foreign)
        return None
    except Exception as error:
        # What it is made of may be repeated in the text of an error that says that it does not fit.
        get_run_logger().error(
            "notify: there is no block %r that can be used (%s); make it in Prefect's UI under "
            "Blocks, and give its type and its name, such as 'slack-webhook/ops'.",
            name,
            type(error).__name__,
        )
        return None
    if isinstance(block, NotificationBlock):
        return block
    get_run_logger().error("notify: the block %r is not one that notifies people.", name)
    return None
