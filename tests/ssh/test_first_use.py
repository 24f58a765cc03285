"""Keys that were trusted when they were first seen, from one run to the next."""

import json

import pytest

from tests.ssh.conftest import HEALTHY, Fakes, line
from tests.ssh.test_health_checker import fleet as fleet

KEY = "ssh/known-hosts/default"
PRINT = f"ssh-ed25519 SHA256:{'x' * 43}"

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def checkpoint(fleet):
    """Gives what writes the keys that are trusted, and without any, reads them."""

    async def write(keys: dict[str, str] | None = None) -> dict[str, str]:
        if keys is not None:
            await fleet.rota.sql.execute(
                "insert into checkpoints (tenant, key, value) values ('acme', $1, $2) "
                "on conflict (tenant, key) do update set value = excluded.value",
                *(KEY, json.dumps(keys)),
            )
        [row] = await fleet.rota.rows("select value from checkpoints where key = $1", KEY)
        found: dict[str, str] = json.loads(row["value"])
        return found

    return write


async def trusting(fleet, **fields):
    await fleet.trust(**{"host_keys": "trust-on-first-use", "known_hosts": "", **fields})


async def test_the_key_of_a_server_is_forgotten_when_no_record_has_its_address(
    fleet, fakes: Fakes, checkpoint
):
    good = await fakes.ssh()
    await trusting(fleet)
    await fleet.add("good", good.host)
    await fleet.add("missing", None, status="missing", addresses=["192.0.2.3"], ssh_port=2222)
    kept = {"192.0.2.3:2222": PRINT}
    await checkpoint({**kept, "192.0.2.4:22": PRINT, "192.0.2.3:22": PRINT})

    data = await fleet.check()

    assert data["trusted"] == [str(good.host)]
    assert (await checkpoint()).keys() == {*kept, str(good.host)}


async def test_the_key_of_the_jump_host_is_not_forgotten(fleet, fakes: Fakes, checkpoint):
    jump, good = await fakes.ssh(forwards=True), await fakes.ssh()
    await trusting(fleet, jump=f"root@{jump.host}")
    await fleet.add("good", good.host)

    for _ in range(2):
        await fleet.check()

    assert (await checkpoint()).keys() == {str(jump.host), str(good.host)}


async def test_what_another_run_has_learned_meanwhile_stays(fleet, fakes: Fakes, checkpoint):
    async def meanwhile(process):
        await checkpoint({"192.0.2.3:22": PRINT})
        process.stdout.write(HEALTHY)
        process.exit(0)

    slow = await fakes.ssh(meanwhile)
    await trusting(fleet)
    await fleet.add("slow", slow.host)

    await fleet.check()

    assert (await checkpoint()).keys() == {"192.0.2.3:22", str(slow.host)}


async def test_when_there_is_no_room_new_servers_are_unknown_and_people_are_told(
    fleet, fakes: Fakes, checkpoint, inbox, caplog
):
    await fleet.rota.sql.execute(
        "insert into servers (tenant, handle, provider, status, public_ip) "
        "select 'acme', 'old-' || n, 'manual', 'missing', '10.' || n / 90 + 10 || '.' || n % 90 "
        "+ 10 || '.10' from generate_series(1, 6100) n"
    )
    rows = await fleet.rota.rows("select public_ip from servers")
    full = await fakes.ssh(HEALTHY.replace(b"20% /", b"97% /"))
    known = {f"{row['public_ip']}:22": PRINT for row in rows}
    await checkpoint(known)
    await trusting(fleet, known_hosts=line("127.0.0.1", full.host.port, full.key))
    await fleet.add("full", full.host)
    for number in range(3):
        new = await fakes.ssh(address=f"127.0.1.{number + 1}")
        await fleet.add(f"new-{number}", new.host)

    data = await fleet.check(notify=["custom-webhook/ops"])

    assert data["outcomes"] == {"up": 1, "unknown": 3}
    assert "3 host keys could not be trusted on first use, for there is no room" in caplog.text
    assert await checkpoint() == known
    assert len(inbox.messages) == 1
