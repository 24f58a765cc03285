"""The block of Time4VPS, against its API as documented."""

import asyncio
import time
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from blocks.outgoing import retry_after, told_time
from blocks.time4vps import Time4VPS
from blocks.vps import (
    ProviderAnswerUnusable,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    Server,
    provider_of_type,
)
from tests.vps.fake_time4vps import BROKEN, NOT_ALLOWED, PASSWORD, USERNAME, Answer, wait_for


class TestStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return Time4VPS


async def test_servers_are_read_with_their_details_whichever_name_the_id_has(account, block):
    account.add(7, "server_id")
    account.add(9, "id")

    listing = await block().servers()

    assert listing.servers[0] == Server(
        provider_id="7",
        public_ip="192.0.2.7",
        host="vps7.example.com",
        addresses=("192.0.2.7", "2001:db8::7"),
        provider_status="Active",
        os_template="kvm-ubuntu-24.04-gpt-x86_64",
        capacity_cpu=2,
        capacity_ram_mb=4096,
        capacity_disk_mb=40960,
        used_ram_mb=1024,
        used_disk_mb=8192,
    )
    assert [one.provider_id for one in listing.servers] == ["7", "9"]
    assert (listing.unfit, listing.unreadable, listing.without_details) == ({}, (), {})
    assert account.requests[0] == "/api/server"
    assert sorted(account.requests[1:]) == ["/api/server/7", "/api/server/9"]


async def test_an_account_without_servers_has_an_empty_list(account, block):
    assert (await block().servers()).servers == ()


async def test_a_wrong_login_is_refused_at_once_and_says_what_to_do(account, block):
    with pytest.raises(
        ProviderRefused, match=r"wronglogin.*Correct the block's username"
    ) as caught:
        await block(password="another").servers()

    assert caught.value.status == 401
    assert len(account.requests) == 1


async def test_a_machine_that_is_not_allowed_is_refused_at_once(account, block):
    account.fail(NOT_ALLOWED)

    with pytest.raises(ProviderRefused, match="Allow this machine's address"):
        await block().servers()
    assert len(account.requests) == 1


async def test_a_rate_limit_is_waited_for_as_long_as_it_asks(account, block, clock):
    account.add(7)
    account.fail(wait_for(24), Answer(body=account.listed), at="/server")

    listing = await block().servers(backoff=clock.backoff)

    assert len(listing.servers) == 1
    assert clock.sleeps == [24]


async def test_a_rate_limit_met_by_one_request_holds_the_others_back(account, block, clock):
    for number in range(1, 21):
        account.add(number)
    met = []

    def fault(path):
        if path != "/api/server" and clock.now < 24:
            met.append(path)
            return wait_for(24)
        return None

    account.fault = fault
    listing = await block().servers(backoff=clock.backoff)

    assert listing.without_details == {}
    assert len(met) <= 8
    assert len(account.requests) == 1 + len(met) + 20


async def test_a_rate_limit_that_lasts_beyond_the_deadline_is_not_waited_for(account, block, clock):
    account.fail(wait_for(400))

    with pytest.raises(ProviderUnavailable, match="wait_x_between_action"):
        await block().servers(backoff=clock.backoff)
    assert clock.sleeps == []


@pytest.mark.parametrize("body", [[["wait_x_between_action"]], ["wait_x_between_action"]])
async def test_a_rate_limit_without_a_time_is_tried_again_soon(account, block, clock, body):
    account.fail(Answer(401, {"error": body}), Answer(body=[]))

    await block().servers(backoff=clock.backoff)

    assert clock.sleeps == [1]


@pytest.mark.parametrize(
    "bad", [BROKEN, Answer(503), Answer(429), Answer(cut=True)], ids=["500", "503", "429", "cut"]
)
async def test_what_may_pass_is_tried_again(account, block, clock, bad):
    account.add(7)
    account.fail(bad, bad, Answer(body=account.listed), at="/server")

    listing = await block().servers(backoff=clock.backoff)

    assert len(listing.servers) == 1
    assert clock.sleeps == [1, 5]


async def test_a_retry_after_is_kept_to(account, block, clock):
    account.fail(Answer(503, headers={"Retry-After": "17"}), Answer(body=[]))

    await block().servers(backoff=clock.backoff)

    assert clock.sleeps == [17]


ODD_DATE = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
ODD = st.sampled_from(
    [
        ODD_DATE,
        "1e400",
        "-1",
        "9" * 400,
        "\u0661\u0662",
        "Infinity",
        "Mon, 01 Jan 0001 00:00:00 +2359",
    ]
)
DATES = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Mon", "", "99"]),
    *[st.integers(-(10**20), 10**20) | st.integers(0, 40)],
    st.sampled_from(["Jan", "Feb", "13", ""]),
    st.integers(-(10**25), 10**25) | st.integers(0, 9999),
    *[st.integers(-99, 99) | st.integers(0, 10**12) for _ in range(3)],
    st.sampled_from(["GMT", "+0000", "-2359", "+9999", "-9999999999999", "EST", ""]),
)


@given(ODD | DATES | st.text(max_size=30), ODD | DATES | st.none())
@settings(deadline=None, max_examples=300)
def test_whatever_stands_in_retry_after_is_a_wait_or_nothing(value, date):
    headers = [("Retry-After", value.encode("utf-8", "surrogatepass"))]
    headers += [("Date", date.encode())] if date else []
    at = datetime(2026, 3, 1, 8, tzinfo=UTC)

    wait = retry_after(httpx.Headers(headers), at)

    assert wait is None or wait >= 0
    assert told_time(httpx.Headers(headers), at).utcoffset() is not None


@pytest.mark.parametrize("asked", [ODD_DATE, "1e400", "-17", "soon"])
async def test_a_retry_after_that_says_nothing_is_none(account, block, clock, asked):
    account.fail(Answer(503, headers={"Retry-After": asked}), Answer(body=[]))

    await block().servers(backoff=clock.backoff)

    assert clock.sleeps == [1]


async def test_it_gives_up_at_its_deadline(account, block, clock):
    account.fail(BROKEN)

    with pytest.raises(ProviderUnavailable, match=r"500 Told So.*Internal Server Error"):
        await block().servers(backoff=clock.backoff)
    assert clock.now < 300


async def test_an_answer_that_does_not_end_is_given_up(account, block, clock):
    account.fail(Answer(body="[]", slow=True), Answer(body=[]))

    await block(answer_seconds=0.1).servers(backoff=clock.backoff)

    assert len(account.requests) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(body={"servers": []}), "no list"),
        (Answer(body="<html>Maintenance</html>"), "no JSON.*Maintenance"),
        (Answer(body="[" * 100_000), "no JSON"),
    ],
    ids=["an object", "a page", "a trap"],
)
async def test_an_answer_that_is_no_list_is_an_error(account, block, answer, said):
    account.fail(answer)

    with pytest.raises(ProviderAnswerUnusable, match=said):
        await block().servers()


async def test_a_redirection_is_not_followed(account, block):
    account.fail(Answer(302, headers={"Location": "/elsewhere"}))

    with pytest.raises(ProviderRefused, match="302"):
        await block().servers()
    assert account.requests == ["/api/server"]


async def test_entries_of_no_use_are_named_and_the_others_are_read(account, block):
    account.add(7)
    account.listed += [
        {"id": 8, "ip": "", "domain": "ordered.example.com", "status": "Pending"},
        {"id": 9, "ip": "192.0.2.9; reboot"},
        {"id": "x", "ip": "192.0.2.10"},
        {"ip": "192.0.2.11"},
        "server",
        None,
    ]

    listing = await block().servers()

    assert [one.provider_id for one in listing.servers] == ["7"]
    assert listing.unfit.keys() == {"8", "9"}
    assert "ip" in listing.unfit["8"]
    assert [one.split(":")[0] for one in listing.unreadable] == [f"entry {n}" for n in (3, 4, 5, 6)]


@pytest.mark.parametrize(
    "name", ["", None, "my server", "$(reboot)", "-oProxyCommand=reboot", "a" * 300, "a\nb"]
)
async def test_a_name_that_is_none_of_a_host_gives_way_to_the_address(account, block, name):
    account.add(7)
    account.listed[0]["domain"] = name

    [server] = (await block().servers()).servers

    assert server.host == "192.0.2.7"


async def test_a_list_of_more_entries_than_anybody_has_servers_is_no_list(account, block):
    account.listed = [0] * 10_001

    with pytest.raises(ProviderAnswerUnusable, match="10,001 entries; at most 10,000"):
        await block().servers()


async def test_details_are_asked_for_by_eight_tasks_however_many_servers_there_are(account, block):
    account.listed = [{"id": number, "ip": "192.0.2.1"} for number in range(1, 5001)]
    account.gate = asyncio.Event()
    before = len(asyncio.all_tasks())

    reading = asyncio.create_task(block().servers())
    while account.waiting < 8:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)
    at_once = len(asyncio.all_tasks()) - before
    reading.cancel()
    account.gate.set()

    # Each connection is a task of the account's.
    assert at_once <= 1 + 2 * 8


async def test_an_entry_that_repeats_the_login_or_is_long_is_told_without_it(account, block):
    account.listed = [
        {"id": 1, "ip": PASSWORD},
        {"id": 2, "ip": "9" * 3_000_000},
        {"id": f"{USERNAME} {PASSWORD}"},
        {"id": 3, "ip": "192.0.2.3"},
    ]
    account.fail(Answer(body={"additional_ip": [PASSWORD, "9" * 3_000_000]}), at="/server/3")

    listing = await block().servers()

    told = [*listing.unfit.values(), *listing.unreadable, *listing.without_details.values()]
    assert [len(one) <= 254 for one in told] == [True] * 4
    assert PASSWORD not in str(told)
    assert USERNAME not in str(told)
    assert listing.unfit["1"] == "ip: Value error, It is no address of IPv4 or IPv6."


@pytest.mark.wall_clock
async def test_a_long_error_that_nearly_repeats_the_password_is_told_soon(account, block):
    account.fail(Answer(403, PASSWORD[:-1] * (1 << 18)))
    began = time.monotonic()

    with pytest.raises(ProviderRefused):
        await block().servers()
    assert time.monotonic() - began < 3


async def test_one_server_listed_twice_is_one(account, block):
    account.add(7)
    account.listed.append({**account.listed[0], "ip": "192.0.2.99"})
    account.listed.append({"id": 7, "ip": None})

    listing = await block().servers()

    assert [one.public_ip for one in listing.servers] == ["192.0.2.7"]
    assert listing.unfit == {}


@pytest.mark.parametrize(
    "bad",
    [
        NOT_ALLOWED,
        BROKEN,
        Answer(body=[]),
        Answer(body={"cpu_cores": -1}),
        Answer(body='{"ram_limit": Infinity}'),
        Answer(body={"disk_usage": 10**30}),
        Answer(body={"additional_ip": ["nowhere"]}),
        Answer(body={"os": "a\nb"}),
    ],
    ids=["refused", "broken", "list", "negative", "infinite", "large", "address", "lines"],
)
async def test_details_that_cannot_be_read_cost_only_themselves(account, block, clock, bad):
    account.add(7)
    account.add(9)
    account.fail(bad, at="/server/7")

    listing = await block().servers(backoff=clock.backoff)

    assert listing.without_details.keys() == {"7"}
    first, second = listing.servers
    assert (first.provider_status, first.capacity_cpu, first.addresses) == ("Active", None, None)
    assert second.capacity_cpu == 2


async def test_details_share_the_time_that_is_left(account, block, clock):
    for number in range(1, 31):
        account.add(number)
    account.fault = lambda path: None if path == "/api/server" else BROKEN

    listing = await block().servers(backoff=clock.backoff)

    assert len(listing.servers) == len(listing.without_details) == 30
    assert clock.now < 300 * 8


async def test_eight_details_are_read_at_once_and_no_more(account, block):
    for number in range(1, 31):
        account.add(number)
    account.gate = asyncio.Event()

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(block().servers())
        while account.waiting < 8:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        held = len(account.requests)
        account.gate.set()

    assert held == 1 + 8
    assert reading.result().without_details == {}


async def test_what_echoes_the_login_is_masked(account, block):
    account.fail(Answer(403, f"{USERNAME} with {PASSWORD} is not welcome"))

    with pytest.raises(ProviderError) as caught:
        await block().servers()
    assert "is not welcome" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert USERNAME not in str(caught.value)


@pytest.mark.parametrize(
    "written",
    [
        r"pässword\"/\\😀",
        r"p\u00e4ssword\"\/\\\ud83d\ude00",
        r"p\u00E4ssword\u0022\u002f\u005C\uD83D\uDE00",
        'pässword"/\\😀',
    ],
    ids=["with backslashes", "as PHP writes it", "as codes", "as it is"],
)
async def test_a_login_is_masked_however_it_is_written(account, block, written):
    account.fail(Answer(403, f'["bad password {written}."]'))

    with pytest.raises(ProviderError) as caught:
        await block(password='pässword"/\\😀').servers()
    assert '["bad password **********."]' in str(caught.value)


def test_the_login_is_not_shown(block):
    shown = f"{block()!r} {block()} {block().model_dump()}"

    assert PASSWORD not in shown
    assert USERNAME not in shown


@pytest.mark.parametrize(
    "fields",
    [
        {"password": ""},
        {"username": ""},
        {"base_url": f"https://{USERNAME.partition('@')[0]}:{PASSWORD}@vps.example"},
        {"provider": "Time 4"},
        {"deadline_seconds": 0},
    ],
)
def test_fields_of_no_use_are_refused_without_being_repeated(block, fields):
    with pytest.raises(ValidationError) as caught:
        block(**fields)
    assert next(iter(fields)) in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_provider_is_found_by_the_type_of_its_block():
    assert provider_of_type("time4vps") is Time4VPS


def test_an_unknown_type_of_a_provider_names_those_that_there_are():
    with pytest.raises(LookupError, match=r"'other' is no type.*time4vps"):
        provider_of_type("other")
