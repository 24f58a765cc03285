"""The duty, with a provider on loopback, against the API that it writes to."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from prefect import get_client
from prefect.exceptions import ParameterTypeError
from prefect.flow_engine import run_flow_async
from prefect.states import AwaitingRetry

from blocks.outgoing import BACKOFF, Backoff
from blocks.records import Records
from blocks.time4vps import Time4VPS
from blocks.vps import Listing, ProviderRefused, ProviderUnavailable, Server, VPSProvider
from flows.blocks_by_name import MissingBlock
from flows.lists import MassChange
from flows.server_sync import server_sync
from flows.tenancy import NoTenant
from tests.prefect.conftest import Deployed
from tests.vps.fake_time4vps import BROKEN, NOT_ALLOWED, PASSWORD, USERNAME, Answer


@pytest.fixture(autouse=True)
async def time4vps(account, block, rota, log) -> AsyncIterator[None]:
    """Stores the account's block, which gives up soon."""
    await block(deadline_seconds=2).asave("default", overwrite=True)
    yield
    await Time4VPS.adelete("default")


async def sync(*managed, **parameters):
    parameters = {"tenant": "acme", "managed_ids": [str(one) for one in managed], **parameters}
    return await server_sync(**parameters)


async def test_a_new_server_waits_for_its_set_up_if_it_is_managed_and_is_reserved_if_not(
    account, rota
):
    account.add(7, "server_id")
    account.add(9)

    counts = await sync(7)

    assert await rota.status() == {"vps-7": "pending_setup", "vps-9": "reserved"}
    assert (counts["servers"], counts["created"]) == (2, 2)
    [row] = await rota.rows("select * from servers where handle = 'vps-7'")
    written = {
        "provider": "time4vps",
        "provider_id": "7",
        "host": "vps7.example.com",
        "public_ip": "192.0.2.7",
        "addresses": ["192.0.2.7", "2001:db8::7"],
        "capacity_cpu": 2,
        "capacity_ram_mb": 4096,
        "capacity_disk_mb": 40960,
        "used_ram_mb": 1024,
        "used_disk_mb": 8192,
        "os_template": "kvm-ubuntu-24.04-gpt-x86_64",
        "provider_status": "Active",
        "managed": True,
    }
    assert {name: row[name] for name in written} == written


async def test_nothing_is_managed_unless_somebody_says_so(account, rota):
    account.add(7)

    await sync()

    assert await rota.status() == {"vps-7": "reserved"}


async def test_the_same_again_changes_nothing(account, rota):
    account.add(7)

    await sync(7)
    counts = await sync(7)

    assert (counts["created"], counts["unchanged"]) == (0, 1)


async def test_what_the_provider_says_anew_is_written_and_the_status_stays(account, rota):
    account.add(7)
    await sync(7)
    await rota.sql.execute("update servers set status = 'in_use'")

    account.details["7"] |= {"ram_used": 2000, "ram_limit": 8192, "status": "Suspended"}
    await sync(7)

    [row] = await rota.rows("select * from servers")
    assert (row["used_ram_mb"], row["capacity_ram_mb"]) == (2000, 8192)
    assert (row["provider_status"], row["status"]) == ("Suspended", "in_use")


async def test_a_server_with_another_address_is_the_same(account, rota):
    account.add(7)
    await sync(7)

    account.listed[0]["ip"] = "192.0.2.200"
    await sync(7)

    assert await rota.rows("select handle, public_ip from servers") == [
        {"handle": "vps-7", "public_ip": "192.0.2.200"}
    ]


async def test_a_server_that_is_gone_is_missing_and_active_when_it_is_back(account, rota):
    account.add(7)
    account.add(9)
    await sync(7)
    await rota.rows("update servers set status = 'in_use' where handle = 'vps-7' returning 1")
    kept = account.details["7"], account.listed[0]

    account.remove(7)
    gone = await sync(7)
    missing = await rota.status()
    account.details["7"], account.listed = kept[0], [kept[1], *account.listed]
    back = await sync(7)

    assert (gone["gone"], missing) == (1, {"vps-7": "missing", "vps-9": "reserved"})
    assert (back["returned"], await rota.status()) == (
        1,
        {"vps-7": "active", "vps-9": "reserved"},
    )


async def test_a_server_that_is_not_managed_any_more_is_reserved(account, rota):
    account.add(7)
    await sync(7)

    counts = await sync()

    assert (counts["demoted"], await rota.status()) == (1, {"vps-7": "reserved"})


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (NOT_ALLOWED, ProviderRefused),
        (BROKEN, ProviderUnavailable),
        (Answer(cut=True), ProviderUnavailable),
    ],
    ids=["refused", "broken", "cut"],
)
async def test_a_list_that_fails_marks_nothing_and_opens_one_incident_until_the_next_success(
    account, rota, answer, raised
):
    account.add(7)
    await sync(7)

    account.fail(answer)
    for _ in range(3):
        with pytest.raises(raised):
            await sync(7)
    [incident] = await rota.incidents()
    during = await rota.status()
    account.mend()
    await sync(7)

    assert (incident["kind"], incident["about"]) == ("provider_api_unavailable", "time4vps")
    assert (incident["server"], incident["status"]) == (None, "detected")
    assert during == {"vps-7": "pending_setup"}
    assert [one["status"] for one in await rota.incidents()] == ["resolved"]


async def test_an_empty_list_where_many_servers_were_is_held_back_unless_allowed(account, rota):
    for number in range(1, 7):
        account.add(number)
    await sync()
    before = await rota.status()

    account.listed = []
    with pytest.raises(MassChange, match="allow_mass_change"):
        await sync()
    held = await rota.status()
    counts = await sync(allow_mass_change=True)

    assert held == before
    assert counts["gone"] == 6
    assert set((await rota.status()).values()) == {"missing"}


async def test_a_slow_run_does_not_undo_what_a_later_one_has_written(account, rota, log):
    account.add(7)
    await sync(7, 8)
    gate = account.gate = asyncio.Event()
    slow = asyncio.create_task(sync(7, 8, return_state=True))
    while not account.waiting:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)
    # It has its list by now, and waits for the details.
    account.gate = None
    account.add(8)
    await sync(7, 8)
    async with (await rota.records()).of("acme") as mine:
        await mine.post("servers", "provisioning", body={})
    gate.set()
    ended = await slow

    assert await rota.status() == {"vps-7": "pending_setup", "vps-8": "pending_setup"}
    live = "select handle from servers where provisioning_request is not null order by 1"
    assert [one["handle"] for one in await rota.rows(live)] == ["vps-7", "vps-8"]
    assert ended.is_completed()
    assert ended.message.startswith("A later list of time4vps was written meanwhile")
    assert ended.message in log.text
    assert "server_missing" not in str(await rota.rows("select kind from notices"))
    assert await rota.incidents() == []


async def test_details_that_fail_are_named_and_the_list_is_written(account, rota, log):
    account.add(7)
    await sync(7)

    account.add(9)
    account.listed[0]["domain"] = "renamed.example.com"
    account.fail(Answer(404, {"error": ["notfound"]}), at="/server/7")
    counts = await sync(7)

    assert (counts["without_details"], counts["created"]) == (1, 1)
    assert "Server 7 has no details" in log.text
    [row] = await rota.rows("select * from servers where handle = 'vps-7'")
    assert (row["host"], row["capacity_cpu"]) == ("renamed.example.com", 2)


async def test_a_known_server_of_which_the_list_says_nonsense_is_not_missing(account, rota, log):
    account.add(7)
    account.add(9)
    await sync(7)

    account.listed[0]["ip"] = ""
    account.listed.append({"id": 11, "ip": None, "status": "Pending"})
    account.remove(9)
    counts = await sync(7)

    assert await rota.status() == {"vps-7": "pending_setup", "vps-9": "missing"}
    assert (counts["unfit"], counts["gone"]) == (2, 1)
    assert "Server 7 is left as it is" in log.text


async def test_of_many_entries_of_no_use_some_are_named_and_the_others_counted(account, rota, log):
    account.listed = [{"id": number, "ip": ""} for number in range(1, 31)] + [None] * 30

    counts = await sync()

    assert (counts["unfit"], counts["unreadable"]) == (30, 30)
    assert log.text.count("is left as it is") == log.text.count("an unreadable entry") == 20
    assert log.text.count("and 10 more such lines") == 2


async def test_servers_that_fit_into_no_one_call_are_written_in_several(account, rota, log):
    addresses = [
        f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{number:x}" for number in range(0x1000, 0x1063)
    ]
    servers = [
        Server(provider_id=str(n), public_ip=f"2001:db8::{n:x}", host="a", addresses=(*addresses,))
        for n in range(2400)
    ]

    class LargeVPS(VPSProvider):
        """Has many servers of many addresses."""

        _block_type_slug = "large-vps"

        async def servers(self, *, backoff: Backoff = BACKOFF) -> Listing:
            return Listing((*servers,))

    await LargeVPS(provider="large").asave("mine", overwrite=True)

    # Together they have more bytes than the API takes.
    counts = await sync(service="large-vps/mine")
    del servers[1000:]
    in_one = await sync(service="large-vps/mine", allow_mass_change=True)

    assert (counts["created"], counts["gone"]) == (2400, 0)
    assert "need more than one call" in log.text
    assert (in_one["unchanged"], in_one["gone"]) == (1000, 1400)


async def test_nothing_is_missing_while_an_entry_has_no_id(account, rota, log):
    account.add(7)
    account.add(9)
    await sync()

    account.remove(7)
    account.listed.append({"ip": "192.0.2.7"})
    counts = await sync()

    assert set((await rota.status()).values()) == {"reserved"}
    assert (counts["unreadable"], counts["gone"]) == (1, 0)
    assert "unreadable entry 1" in log.text


async def test_a_run_of_a_definition_writes_its_tenants_records_and_once_however_often_it_is_run(
    account, rota
):
    account.add(7)
    await sync(7)
    account.remove(7)
    run = await Deployed(server_sync, {"managed_ids": ["7"]}).scheduled_run()

    first = await run_flow_async(server_sync, flow_run=run, parameters=run.parameters)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
        again = await client.read_flow_run(run.id)
    second = await run_flow_async(server_sync, flow_run=again, parameters=run.parameters)

    assert await rota.status() == {"vps-7": "missing"}
    assert (first["gone"], second["gone"]) == (1, 1)
    changes = await rota.rows("select after from server_changes order by id")
    assert [one["after"] for one in changes] == ["pending_setup", "missing"]


async def test_a_definition_does_not_write_another_tenants_records(account, rota):
    await rota.add_tenant("globex")
    run = await Deployed(server_sync, {"tenant": "globex"}).manual_run()

    with pytest.raises(NoTenant, match="'globex' is not the tenant of the definition 'acme/noon'"):
        await run_flow_async(server_sync, flow_run=run, parameters=run.parameters)


async def test_a_run_that_nobody_told_its_tenant_says_so(rota):
    with pytest.raises(NoTenant, match="give any other run the parameter `tenant`"):
        await server_sync()


async def test_a_missing_block_says_how_to_make_it(rota):
    with pytest.raises(MissingBlock, match="`time4vps/elsewhere`"):
        await sync(service="elsewhere")


async def test_an_unknown_provider_names_those_that_there_are(rota):
    with pytest.raises(LookupError, match="'othervps' is no type of a provider's block"):
        await sync(service="othervps/default")


@pytest.mark.parametrize(
    "parameters", [{"service": ""}, {"managed_ids": "7"}, {"managed_ids": [""]}, {"notify": [1]}]
)
async def test_parameters_of_no_use_are_refused(rota, parameters):
    with pytest.raises(ParameterTypeError):
        await server_sync(**parameters)


async def test_no_secret_is_in_the_log_the_incident_or_the_run(account, rota, log):
    account.fail(Answer(403, f"{USERNAME}:{PASSWORD} is not welcome"))

    with pytest.raises(ProviderRefused):
        await sync()

    async with get_client() as client:
        states = [str(run.state) for run in await client.read_flow_runs()]
    told = [log.text, *map(str, await rota.incidents()), *states]
    assert "is not welcome" in told[1]
    assert not any(PASSWORD in one or USERNAME in one for one in told)


async def test_another_provider_is_one_class_beside_it(rota):
    class OtherVPS(VPSProvider):
        """Has one server."""

        _block_type_slug = "other-vps"

        async def servers(self, *, backoff: Backoff = BACKOFF) -> Listing:
            return Listing((Server(provider_id="a-1", public_ip="203.0.113.1", host="a"),))

    await OtherVPS(provider="other").asave("mine", overwrite=True)

    await sync("a-1", service="other-vps/mine")

    assert await rota.status() == {"vps-a-1": "pending_setup"}


async def test_an_incident_that_cannot_be_written_hides_not_why_the_run_failed(account, rota, log):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
    records = Records(base_url=nowhere, token="t", deadline_seconds=0.2)
    await records.asave("nowhere", overwrite=True)
    account.fail(NOT_ALLOWED)

    with pytest.raises(ProviderRefused, match="ipnotallowed"):
        await sync(records="nowhere")
    assert "The incident could not be written" in log.text


async def test_the_run_says_in_a_line_what_it_found(account, rota):
    account.add(7)

    await sync(7)

    async with get_client() as client:
        runs = await client.read_flow_runs()
    latest = max(runs, key=lambda run: run.created)
    assert latest.state.message == "Servers listed: 1; new: 1."
