import json
import logging
from collections import Counter

import asyncssh
import httpx
import pytest
from prefect import get_client
from prefect.exceptions import ParameterTypeError
from prefect.flow_engine import run_flow_async
from prefect.states import AwaitingRetry

from api.checks import MOST
from blocks.ssh import SSHAccess
from blocks.ssh_hosts import Host, SSHUnusable
from flows.blocks_by_name import MissingBlock
from flows.health_checker import Check, batches, health_checker
from tests.prefect.conftest import Deployed
from tests.ssh.conftest import HEALTHY, ME, Fake, Fakes, text

FULL = HEALTHY.replace(b"20% /", b"97% /")

pytestmark = pytest.mark.usefixtures("prefect_server")


class Fleet:
    """Servers in the records, and what the records say of them."""

    def __init__(self, rota, access):
        self.rota = rota
        self._access = access

    async def add(self, handle: str, host: Host | None, **columns):
        """Writes a server that is in use, as its provider's list would have."""
        values = {
            "tenant": self.rota.tenant,
            "handle": handle,
            "provider": "manual",
            "managed": True,
            "status": "in_use",
            "public_ip": host and host.address,
            "ssh_port": host.port if host else 22,
            "ssh_user": ME,
            **columns,
        }
        marks = ", ".join(f"${number + 1}" for number in range(len(values)))
        await self.rota.sql.execute(
            f"insert into servers ({', '.join(values)}) values ({marks})", *values.values()
        )

    async def trust(self, *fakes: Fake, **fields):
        """Stores the block."""
        known = "".join(fake.known_hosts for fake in fakes)
        block = self._access(**{"known_hosts": known, **fields})
        await block.asave("default", overwrite=True)

    async def check(self, **parameters):
        return await health_checker(**{"tenant": "acme", **parameters})

    async def states(self):
        rows = await self.rota.rows("select handle, health from servers order by handle")
        return {row["handle"]: json.loads(row["health"])["state"] for row in rows}

    async def incidents(self):
        """Reads the incidents: the server, of what kind, about what, and whether it is open."""
        rows = await self.rota.incidents()
        return [
            (row["server"], row["kind"], row["about"], row["status"] != "resolved") for row in rows
        ]


@pytest.fixture
async def fleet(rota, access):
    yield Fleet(rota, access)
    await SSHAccess.adelete("default")


async def latest_run():
    async with get_client() as client:
        runs = await client.read_flow_runs()
    return max(runs, key=lambda run: run.created)


async def test_a_fleet_is_checked_and_recorded(fleet, fakes: Fakes):
    good, full = await fakes.ssh(), await fakes.ssh(FULL)
    await fleet.trust(good, full)
    await fleet.add("good", good.host)
    await fleet.add("full", full.host)
    await fleet.add("nowhere", None)
    await fleet.add("theirs", fakes.refusing(), managed=False)
    await fleet.add("gone", fakes.refusing(), status="missing")

    data = await fleet.check()

    assert data["outcomes"] == {"up": 2, "unknown": 1}
    assert data["states"] == {"good": "up", "full": "critical", "nowhere": "unknown"}
    assert await fleet.incidents() == [("full", "resource_exhausted", "disk /", True)]
    facts = await fleet.rota.rows("select health from servers where handle = 'good'")
    assert json.loads(facts[0]["health"])["facts"]["memory_percent"] == 25
    assert (await latest_run()).state.message == (
        "3 servers: 2 up, 0 down, 1 unknown; 1 incidents opened, 0 closed."
    )


async def test_the_results_are_a_table_among_the_run_s_artifacts(fleet, fakes, prefect_server):
    full = await fakes.ssh(FULL)
    await fleet.trust(full)
    await fleet.add("full", full.host)

    await fleet.check()

    run = await latest_run()
    chosen = {"artifacts": {"flow_run_id": {"any_": [str(run.id)]}}}
    async with httpx.AsyncClient(base_url=prefect_server) as http:
        [artifact] = (await http.post("/artifacts/filter", json=chosen)).json()
    [row] = json.loads(artifact["data"])
    assert artifact["key"] == "rota-health"
    assert artifact["description"].startswith("acme: 1 servers: 1 up")
    assert (row["server"], row["state"], row["disk %"]) == ("full", "critical", 97)
    assert row["what"] == "The disk at / is 97 % full."


async def test_a_server_is_unreachable_after_two_failures_and_back_after_one_success(
    fleet, fakes: Fakes
):
    nobody = fakes.refusing()
    await fleet.trust()
    await fleet.add("web", nobody)

    await fleet.check()
    assert await fleet.rota.status() == {"web": "in_use"}
    await fleet.check()
    assert await fleet.rota.status() == {"web": "unreachable"}
    assert await fleet.incidents() == [("web", "server_unreachable", "", True)]

    back = await fakes.ssh(port=nobody.port)
    await fleet.trust(back)
    data = await fleet.check()
    assert await fleet.rota.status() == {"web": "in_use"}
    assert await fleet.incidents() == [("web", "server_unreachable", "", False)]
    assert (len(data["opened"]), len(data["closed"])) == (0, 1)


async def test_people_are_told_of_an_incident_once(fleet, fakes: Fakes, inbox):
    full = await fakes.ssh(FULL)
    await fleet.trust(full)
    await fleet.add("full", full.host)
    for _ in range(2):
        await fleet.check(notify=["custom-webhook/ops"])
    assert len(inbox.messages) == 1
    assert "full" in inbox.subjects[0]


async def test_one_failure_is_enough_where_the_definition_says_so(fleet, fakes: Fakes):
    await fleet.trust()
    await fleet.add("web", fakes.refusing())

    await fleet.check(failures_needed=1)

    assert await fleet.states() == {"web": "down"}


async def test_our_own_credentials_do_not_make_a_server_unreachable(
    fleet, fakes: Fakes, stranger_key
):
    good = await fakes.ssh()
    await fleet.add("web", good.host)
    await fleet.trust(good, private_key=text(stranger_key))

    for _ in range(3):
        await fleet.check()

    assert await fleet.rota.status() == {"web": "in_use"}
    assert await fleet.incidents() == []


async def test_a_run_that_is_tried_again_counts_once(fleet, fakes: Fakes):
    await fleet.trust()
    await fleet.add("web", fakes.refusing())
    run = await Deployed(health_checker).scheduled_run()

    await run_flow_async(health_checker, flow_run=run, parameters=run.parameters)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
        again = await client.read_flow_run(run.id)
    await run_flow_async(health_checker, flow_run=again, parameters=run.parameters)

    [row] = await fleet.rota.rows("select health, last_health_check_at as at from servers")
    assert json.loads(row["health"])["failures"] == 1
    assert row["at"] == Deployed.occurrence
    assert await fleet.incidents() == []


async def test_a_key_is_trusted_at_first_kept_and_missed_when_it_changes(fleet, fakes: Fakes):
    before = await fakes.ssh()
    await fleet.add("web", before.host)
    await fleet.trust(host_keys="trust-on-first-use", known_hosts="")

    first = await fleet.check()
    second = await fleet.check()
    assert first["trusted"] == [str(before.host)]
    assert second["trusted"] == []

    after = await fakes.ssh(key=asyncssh.generate_private_key("ssh-ed25519"))
    await fleet.rota.sql.execute("update servers set ssh_port = $1", after.host.port)
    key = "ssh/known-hosts/default"
    await fleet.rota.sql.execute(
        "update checkpoints set value = jsonb_build_object($1::text, value -> $2) where key = $3",
        str(after.host),
        str(before.host),
        key,
    )
    await fleet.check()
    assert await fleet.incidents() == [("web", "host_key_changed", "", True)]
    assert await fleet.rota.status() == {"web": "in_use"}
    assert after.commands == []

    # Somebody has looked, and lists the new one.
    await fleet.trust(after, host_keys="trust-on-first-use")
    await fleet.check()
    assert await fleet.incidents() == [("web", "host_key_changed", "", False)]


async def test_trusted_keys_that_cannot_be_read_stop_the_run(fleet, fakes: Fakes):
    good = await fakes.ssh()
    await fleet.add("web", good.host)
    await fleet.trust(host_keys="trust-on-first-use", known_hosts="")
    await fleet.check()
    await fleet.rota.sql.execute("""update checkpoints set value = '["junk"]'""")

    with pytest.raises(ValueError, match="ssh/known-hosts/default does not hold host keys"):
        await fleet.check()
    assert len(good.commands) == 1


async def test_a_prober_that_fails_opens_one_incident_instead_of_many(fleet, fakes: Fakes):
    await fleet.trust(jump=f"{ME}@{fakes.refusing()}")
    for number in range(6):
        await fleet.add(f"web-{number}", fakes.refusing())

    data = await fleet.check()

    assert data["prober"] == "failed"
    assert await fleet.incidents() == [(None, "prober_failed", "health_checker", True)]
    assert "the fault is taken to be the prober's" in (await latest_run()).state.message


async def test_a_server_in_maintenance_is_checked_and_opens_nothing(fleet, fakes: Fakes):
    full = await fakes.ssh(FULL)
    await fleet.trust(full)
    await fleet.add("web", full.host, status="maintenance")

    await fleet.check()

    assert await fleet.states() == {"web": "critical"}
    assert await fleet.incidents() == []


async def test_a_fleet_without_servers_is_nothing_to_do(fleet):
    await fleet.trust()

    assert (await fleet.check())["outcomes"] == {}
    assert (await latest_run()).state.message.startswith("0 servers: ")


async def test_the_run_s_log_names_who_is_not_up_and_why(fleet, fakes: Fakes, caplog):
    for number in range(22):
        await fleet.add(f"s{number:02}", None)
    await fleet.trust()

    await fleet.check()

    assert "s00 is unknown: It has no address" in caplog.text
    assert "s20 is" not in caplog.text
    assert "2 more are not up." in caplog.text


async def test_a_record_that_does_not_fit_is_skipped_and_named(fleet, fakes: Fakes, caplog):
    good = await fakes.ssh()
    await fleet.trust(good)
    await fleet.add("good", good.host)
    await fleet.add("odd", good.host, ssh_user="root; reboot")

    data = await fleet.check()

    assert data["outcomes"] == {"up": 1}
    assert "1 more could not be read" in (await latest_run()).state.message
    assert "The server 'odd' is skipped: ssh_user: " in caplog.text
    assert "reboot" not in caplog.text


async def test_more_servers_than_fit_into_one_call_are_recorded(fleet, fakes: Fakes):
    await fleet.trust()
    await fleet.rota.sql.execute(
        "insert into servers (tenant, handle, provider, managed, status) "
        "select 'acme', 'vps-' || n, 'manual', true, 'maintenance' from generate_series(1, $1) n",
        MOST + 3,
    )

    data = await fleet.check()

    assert data["outcomes"] == {"unknown": MOST + 3}
    assert len(data["states"]) == MOST + 3


async def test_hosts_that_say_very_much_do_not_keep_others_from_being_recorded(fleet, fakes: Fakes):
    rows = "".join(f"/dev/d{n} 100 99 1 99% /{chr(0x1F600 + n) * 118}{n}\n" for n in range(90))
    loud = await fakes.ssh(HEALTHY.replace(b"[end]", rows.encode() + b"[end]"))
    good = await fakes.ssh()
    await fleet.trust(loud, good)
    await fleet.add("good", good.host)
    for number in range(120):
        await fleet.add(f"loud-{number}", loud.host)

    data = await fleet.check()

    assert data["states"]["good"] == "up"
    assert Counter(data["states"].values()) == {"up": 1, "critical": 120}
    longest = "select max(length(health::text)) as most from servers"
    assert (await fleet.rota.rows(longest))[0]["most"] < 16 << 10


def test_checks_are_sent_in_batches_that_the_api_takes_each_a_sample_of_the_fleet():
    disks = [{"mount": f"/srv/{n}", "size_kb": 1 << 30, "used_percent": 50} for n in range(25)]
    up = [Check(f"up-{n}", "up", facts={"disks": disks}) for n in range(4000)]
    down = [Check(f"down-{n}", "down", "There is no connection.") for n in range(3000)]

    sent = batches([*down, *up])

    assert sorted(one["handle"] for batch in sent for one in batch) == sorted(
        one.handle for one in [*up, *down]
    )
    assert all(len(json.dumps(batch)) < 5 << 20 and len(batch) <= MOST for batch in sent)
    shares = [sum(one["outcome"] == "up" for one in batch) / len(batch) for batch in sent]
    assert max(shares) - min(shares) < 0.01
    assert batches([]) == [[]]


async def test_a_block_of_no_use_fails_the_run_and_shows_no_secret(
    fleet, fakes: Fakes, prefect_server, caplog
):
    caplog.set_level(logging.DEBUG)
    good = await fakes.ssh()
    await fleet.add("web", good.host)
    await fleet.trust(good, private_key="hunter2-is-no-key")

    with pytest.raises(SSHUnusable, match="private_key is no private key"):
        await fleet.check()

    run = await latest_run()
    assert run.state.is_failed()
    assert "hunter2" not in f"{run.state.message} {caplog.text}"
    assert (await fleet.rota.rows("select last_health_check_at as at from servers")) == [
        {"at": None}
    ]


async def test_a_missing_block_says_how_to_make_it(rota):
    with pytest.raises(MissingBlock, match="`ssh-access/elsewhere`"):
        await health_checker(service="elsewhere", tenant="acme")


@pytest.mark.parametrize(
    "parameters",
    [{"at_a_time": 0}, {"failures_needed": 0}, {"deadline_seconds": 0}, {"skew_seconds": -1}],
)
async def test_parameters_of_no_use_are_refused(parameters):
    with pytest.raises(ParameterTypeError):
        await health_checker(tenant="acme", **parameters)


@pytest.mark.needs("sshd", "openssh-server")
async def test_a_real_server_with_a_full_disk_is_critical(fleet, sshd):
    sshd.program(
        "df",
        "echo Filesystem 1024-blocks Used Available Capacity Mounted on\n"
        "echo /dev/vda1 100 96 4 96% /\necho /dev/vdb1 100 20 80 20% /srv",
    )
    await fleet.trust(known_hosts=sshd.known_hosts)
    await fleet.add("web", sshd.host)

    data = await fleet.check(skew_seconds=30)

    assert ("web", "resource_exhausted", "disk /", True) in await fleet.incidents()
    assert data["outcomes"] == {"up": 1}


@pytest.mark.needs("sshd", "openssh-server")
async def test_a_real_server_whose_disks_hang_says_the_rest(fleet, sshd):
    # Only the list of local disks comes to an end.
    sshd.program("df", '[ "$3" = -l ] || exec sleep 5\necho /dev/vda1 100 20 80 20% /')
    sshd.program("timeout", 'shift; [ "$1" = true ] && exit 0; exec /usr/bin/timeout 1 "$@"')
    await fleet.trust(known_hosts=sshd.known_hosts)
    await fleet.add("web", sshd.host)

    await fleet.check(skew_seconds=30)

    [row] = await fleet.rota.rows("select health from servers")
    facts = json.loads(row["health"])["facts"]
    assert facts["disks"] == [{"mount": "/", "size_kb": 100, "used_percent": 20}]
    assert facts["uptime_seconds"] > 0


@pytest.mark.needs("sshd", "openssh-server")
@pytest.mark.parametrize(
    ("answer", "problem"), [("exit 1", ("web", "service_down", "docker", True)), ("echo 27", None)]
)
async def test_a_real_server_s_docker_is_looked_at(fleet, sshd, answer, problem):
    sshd.program("dockerd", "exit 1")
    sshd.program("docker", answer)
    sshd.program("systemctl", "echo failed; exit 3")
    await fleet.trust(known_hosts=sshd.known_hosts)
    await fleet.add("web", sshd.host)

    await fleet.check(skew_seconds=30)

    found = [one for one in await fleet.incidents() if one[1] == "service_down"]
    assert found == ([problem] if problem else [])


@pytest.mark.needs("sshd", "openssh-server")
async def test_a_real_server_s_wrong_clock_is_an_incident(fleet, sshd):
    sshd.program("date", "echo 1700000000 000000000")
    await fleet.trust(known_hosts=sshd.known_hosts)
    await fleet.add("web", sshd.host)

    await fleet.check(skew_seconds=30)

    assert ("web", "clock_skew", "", True) in await fleet.incidents()


@pytest.mark.needs("sshd", "openssh-server")
async def test_a_real_server_that_hangs_is_down(fleet, sshd):
    sshd.program("cat", "exec sleep 5")
    await fleet.trust(known_hosts=sshd.known_hosts, command_seconds=0.5)
    await fleet.add("web", sshd.host)

    await fleet.check(failures_needed=1)

    assert await fleet.incidents() == [("web", "server_unreachable", "", True)]


@pytest.mark.needs("sshd", "openssh-server")
async def test_a_real_server_that_is_slow_is_up(fleet, sshd):
    sshd.program("nproc", "sleep 1; echo 2")
    await fleet.trust(known_hosts=sshd.known_hosts)
    await fleet.add("web", sshd.host)

    data = await fleet.check(skew_seconds=30)
    assert data["outcomes"] == {"up": 1}, await fleet.rota.rows("select health from servers")
