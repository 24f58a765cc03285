"""Telling people, through Prefect's own blocks, what the API has for them."""

import asyncio

import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook

from blocks.records import Records
from blocks.time4vps import Time4VPS
from blocks.vps import ProviderRefused
from flows.notices import tell
from flows.notifier import notifier
from flows.server_sync import server_sync
from tests.provisioning.conftest import PATH
from tests.vps.conftest import account, block
from tests.vps.fake_time4vps import NOT_ALLOWED

__all__ = ["account", "block"]

OPS = "custom-webhook/ops"


@flow
async def telling(blocks: list[str]) -> int:
    records = await Records.aload("default")
    async with records.of("acme") as acme:
        return await tell(acme, blocks)


@pytest.fixture
def note(rota):
    """Gives what writes a notice for a tenant."""

    async def note(subject, age="0 s"):
        await rota.sql.execute(
            "insert into notices (tenant, kind, severity, subject, text, at) "
            "values ('acme', 'incident_opened', 'critical', $1, 'More of it.', "
            "now() - $2::text::interval)",
            *(subject, age),
        )

    return note


async def test_people_are_told_each_thing_once(note, inbox):
    await note("vps-7: cannot be reached")
    await note("vps-8: cannot be reached")

    told = [await telling([OPS]) for _ in range(2)]

    assert told == [2, 0]
    assert inbox.messages == [
        {"subject": "vps-7: cannot be reached", "text": "More of it."},
        {"subject": "vps-8: cannot be reached", "text": "More of it."},
    ]


async def test_two_runs_at_once_tell_each_thing_once(note, inbox):
    subjects = [f"vps-{number}" for number in range(120)]
    for subject in subjects:
        await note(subject)

    await asyncio.gather(telling([OPS]), telling([OPS]))

    assert sorted(inbox.subjects) == sorted(subjects)


async def test_a_run_that_is_killed_loses_at_most_what_it_was_sending(note, inbox):
    subjects = [f"vps-{number}" for number in range(3)]
    for subject in subjects:
        await note(subject)
    inbox.silent = True
    run = asyncio.create_task(telling([OPS]))
    async with asyncio.timeout(20):
        while not inbox.messages:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    inbox.silent = False
    inbox.messages.clear()

    assert await telling([OPS]) == 2
    assert inbox.subjects == subjects[1:]


async def _addressed(rota, *blocks):
    await rota.sql.execute(
        "insert into notices (tenant, kind, severity, subject, text, blocks) "
        "values ('acme', 'definition_failure', 'critical', 'acme/nightly fails', 'Why.', $1)",
        list(blocks),
    )


async def test_a_notice_that_says_where_it_goes_goes_there_and_nowhere_else(rota, note, inbox, log):
    await _addressed(rota, "custom-webhook/nowhere")
    await note("vps-7")

    assert await telling([OPS]) == 1

    assert inbox.subjects == ["vps-7"]
    assert "there is no block 'custom-webhook/nowhere'" in log.text


async def test_the_notifier_sends_what_says_where_it_goes_and_leaves_the_rest(rota, note, inbox):
    await _addressed(rota, OPS)
    await note("vps-7")

    first = await notifier(tenant="acme")
    second = await notifier(tenant="acme")

    assert (first, second, inbox.subjects) == (1, 0, ["acme/nightly fails"])
    assert await notifier(tenant="acme", notify=[OPS]) == 1
    assert inbox.subjects == ["acme/nightly fails", "vps-7"]


async def test_yesterdays_news_are_not_told(note, inbox):
    await note("vps-7", age="25 hours")

    assert await telling([OPS]) == 0


async def test_a_way_that_fails_is_logged_without_its_address_and_fails_nothing(note, inbox, log):
    await note("vps-7")
    inbox.status = 500

    assert await telling([OPS]) == 0

    assert len(inbox.messages) == 1
    assert "custom-webhook/ops did not take 'vps-7': HTTPStatusError 500" in log.text
    assert PATH not in log.text
    assert inbox.address not in log.text


async def test_a_way_that_does_not_answer_is_given_up(note, inbox, log):
    await note("vps-7")
    inbox.silent = True
    slow = await CustomWebhookNotificationBlock.aload("ops")
    slow.timeout = 0.1
    await slow.asave("ops", overwrite=True)

    assert await telling([OPS]) == 0
    assert "custom-webhook/ops did not take 'vps-7': ReadTimeout" in log.text


async def test_every_way_is_tried_whether_or_not_another_fails(note, inbox, log):
    await note("vps-7")
    await CustomWebhookNotificationBlock(
        name="off", url="http://127.0.0.1:9/", json_data={"subject": "{{subject}}"}
    ).asave("off", overwrite=True)

    assert await telling(["custom-webhook/off", OPS]) == 1

    assert inbox.subjects == ["vps-7"]
    assert "custom-webhook/off did not take" in log.text


# Apprise's own, as it is imported.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
async def test_an_apprise_block_that_fails_is_logged_too(note, inbox, log):
    await note("vps-7")
    await SlackWebhook(url="http://127.0.0.1:9/services/T0/B0/secret").asave("ops", overwrite=True)

    assert await telling(["slack-webhook/ops"]) == 0

    assert "slack-webhook/ops did not take" in log.text
    assert "secret" not in log.text


@pytest.mark.parametrize(
    "name", ["custom-webhook/elsewhere", "nothing/at-all", "ops", "records/default"]
)
async def test_a_block_of_no_use_is_named_and_what_there_is_to_tell_stays(note, inbox, log, name):
    await note("vps-7")

    assert await telling([name]) == 0
    assert f"{name!r}" in log.text
    assert await telling([OPS]) == 1


async def test_without_any_way_what_there_is_to_tell_stays(note, inbox):
    await note("vps-7")

    assert await telling([]) == 0
    assert await telling([OPS]) == 1


async def test_a_duty_tells_of_new_servers_and_of_incidents(account, block, rota, inbox):
    await block(deadline_seconds=0.5).asave("default", overwrite=True)
    account.add(7)
    await server_sync(tenant="acme", notify=[OPS])

    account.fail(NOT_ALLOWED)
    for _ in range(2):
        with pytest.raises(ProviderRefused):
            await server_sync(tenant="acme", notify=[OPS])
    account.mend()
    await server_sync(tenant="acme", notify=[OPS])
    await Time4VPS.adelete("default")

    assert len(inbox.messages) == 3
    assert "vps-7" in inbox.subjects[0]
    assert "cannot be read" in inbox.subjects[1]
    assert "cannot be read" in inbox.subjects[2]


async def test_a_block_of_another_tenants_is_not_told(note, inbox, rota, caplog):
    hook = await CustomWebhookNotificationBlock.aload("ops")
    await hook.asave("globex--ops", overwrite=True)
    await hook.asave("acme--ops", overwrite=True)
    await note("vps-7: cannot be reached")

    assert await telling(["custom-webhook/globex--ops"]) == 0
    assert "'custom-webhook/globex--ops' is another tenant's; name one of acme's own" in caplog.text
    assert inbox.messages == []

    assert await telling(["custom-webhook/acme--ops"]) == 1
    for name in ("globex--ops", "acme--ops"):
        await CustomWebhookNotificationBlock.adelete(name)
