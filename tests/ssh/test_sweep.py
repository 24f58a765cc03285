import asyncio
import time
from collections import Counter

import asyncssh
import pytest

from flows.health_checker import Check, Server, Sweep, host_of, table
from flows.vitals import Problem
from tests.ssh.conftest import HEALTHY, ME, Fakes

FULL = HEALTHY.replace(b"20% /", b"97% /")


def server(handle: str, host, **fields) -> Server:
    return Server(handle=handle, public_ip=host.address, ssh_port=host.port, **fields)


def sweep(access, *, at_a_time=200, deadline_seconds=60.0, trusted=None) -> Sweep:
    return Sweep(access, trusted or {}, at_a_time, deadline_seconds, skew_seconds=1e9)


# -- where a server is


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"public_ip": "203.0.113.7", "host": "web-1.example.com"}, "203.0.113.7"),
        ({"host": "web-1.example.com", "addresses": ["10.0.0.1"]}, "web-1.example.com"),
        ({"host": "the old shop", "addresses": ["10.0.0.1"]}, "10.0.0.1"),
        ({"public_ip": "2001:db8::7"}, "2001:db8::7"),
        ({"host": "web_1"}, "web_1"),
    ],
)
def test_a_server_is_looked_for_at_its_public_address_first(fields, address):
    assert host_of(Server(handle="vps-1", **fields)).address == address


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"public_ip": "", "host": ""},
        {"public_ip": "203.0.113.777"},
        {"public_ip": "0.0.0.0"},
        {"public_ip": "224.0.0.1"},
        {"host": "-oProxyCommand=reboot"},
        {"host": "web-1; reboot"},
        {"host": "$(reboot)"},
        {"host": "web-1\nreboot"},
        {"host": "a" * 64},
        {"host": ".".join(["abc"] * 80)},
    ],
)
async def test_a_server_without_an_address_of_use_is_unknown(access, fields):
    [check] = await sweep(access()).over([Server(handle="vps-1", **fields)])

    assert check.outcome == "unknown"
    assert check.reason is not None
    assert "address" in check.reason


def test_known_hosts_are_asked_for_the_name_too():
    both = Server(handle="vps-1", public_ip="203.0.113.7", host="web-1.example.com", ssh_user="ops")

    host = host_of(both)

    assert (host.name, host.username, host.port) == ("web-1.example.com", "ops", 22)


# -- a sweep


async def test_each_server_of_a_mixed_fleet_gets_what_it_deserves(access, fakes: Fakes):
    async def crash(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(b"sh: not found\n")
        process.exit(127)

    good, full, broken = await fakes.ssh(), await fakes.ssh(FULL), await fakes.ssh(crash)
    other = await fakes.ssh(key=asyncssh.generate_private_key("ssh-ed25519"))
    unlisted = await fakes.ssh()
    lies = other.known_hosts.split()[0] + good.known_hosts[good.known_hosts.index(" ") :]
    known = good.known_hosts + full.known_hosts + broken.known_hosts + lies
    servers = [
        server("good", good.host),
        server("full", full.host),
        server("broken", broken.host),
        server("changed", other.host),
        server("unlisted", unlisted.host),
        server("refusing", fakes.refusing()),
        server("silent", await fakes.silent()),
        server("named", good.host, ssh_user="somebody"),
        Server(handle="nowhere"),
    ]

    checks = await sweep(access(known_hosts=known, connect_seconds=4)).over(servers)

    assert [one.handle for one in checks] == [one.handle for one in servers]
    outcomes = {one.handle: (one.outcome, [p.kind for p in one.problems]) for one in checks}
    assert outcomes == {
        "good": ("up", []),
        "full": ("up", ["resource_exhausted"]),
        "broken": ("up", ["unreadable"]),
        "changed": ("unknown", ["host_key_changed"]),
        "unlisted": ("unknown", []),
        "refusing": ("down", []),
        "silent": ("down", []),
        "named": ("up", []),
        "nowhere": ("unknown", []),
    }
    assert all((one.reason is None) == (one.outcome == "up") for one in checks)


async def test_one_connection_and_one_command_for_each_server(access, fakes: Fakes):
    fake = await fakes.ssh()

    await sweep(access(known_hosts=fake.known_hosts)).over([server("a", fake.host)])

    assert (fake.connections, len(fake.commands)) == (1, 1)


async def test_no_more_than_so_many_servers_are_logged_in_to_at_once(access, fakes: Fakes):
    async def slow(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await asyncio.sleep(0.02)
        process.stdout.write(HEALTHY)
        process.exit(0)

    fake = await fakes.ssh(slow)
    servers = [server(f"s{number}", fake.host) for number in range(40)]
    checks = await sweep(access(known_hosts=fake.known_hosts), at_a_time=5).over(servers)

    assert Counter(one.outcome for one in checks) == {"up": 40}
    assert 1 < fake.most_open <= 5 + 1  # the other end hears of a close a little later


async def test_servers_that_hang_cost_their_own_time_only(access, fakes: Fakes):
    good, silent = await fakes.ssh(), await fakes.silent()
    servers = [server(f"s{n}", silent if n % 4 == 0 else good.host) for n in range(40)]

    began = time.monotonic()
    checks = await sweep(access(known_hosts=good.known_hosts, connect_seconds=4)).over(servers)

    assert time.monotonic() - began < 20  # ten that hang, one after another, would take 40 s
    assert Counter(one.outcome for one in checks) == {"up": 30, "down": 10}


async def test_what_is_not_looked_at_before_the_deadline_is_unknown(access, fakes: Fakes):
    good, silent = await fakes.ssh(), await fakes.silent()
    servers = [server("good", good.host), *(server(f"s{n}", silent) for n in range(8))]
    slow = access(known_hosts=good.known_hosts, connect_seconds=60)

    checks = await sweep(slow, at_a_time=2, deadline_seconds=3).over(servers)

    assert [one.outcome for one in checks] == ["up"] + ["unknown"] * 8
    assert checks[-1].reason == "It was not looked at within the 3 s of the sweep."


async def test_a_sweep_that_is_cancelled_leaves_no_connection(access, fakes: Fakes):
    started = asyncio.Semaphore(0)

    async def hang(process: asyncssh.SSHServerProcess[bytes]) -> None:
        started.release()
        await process.wait_closed()

    fake = await fakes.ssh(hang)
    servers = [server(f"s{number}", fake.host) for number in range(10)]
    going = asyncio.create_task(sweep(access(known_hosts=fake.known_hosts)).over(servers))
    for _ in servers:
        await started.acquire()
    assert fake.open == 10
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    async with asyncio.timeout(10):
        while fake.open:  # noqa: ASYNC110 - the other end has no event
            await asyncio.sleep(0.01)


async def test_a_jump_host_that_fails_leaves_all_servers_unknown(access, fakes: Fakes):
    jump, good = fakes.refusing(), await fakes.ssh()
    through = access(jump=f"{ME}@{jump}", known_hosts=good.known_hosts)

    checks = await sweep(through).over([server("a", good.host), server("b", good.host)])

    assert [one.outcome for one in checks] == ["unknown", "unknown"]
    assert checks[0].reason is not None
    assert checks[0].reason.startswith(f"The jump host {ME}@{jump}: There is no connection")
    assert good.connections == 0


async def test_keys_that_are_trusted_at_first_are_told_even_if_the_login_fails(
    access, fakes: Fakes, stranger_key
):
    fake = await fakes.ssh()
    stranger = access(
        host_keys="trust-on-first-use",
        private_key=stranger_key.export_private_key("openssh").decode(),
    )
    looking = sweep(stranger)

    [check] = await looking.over([server("a", fake.host)])

    assert check.outcome == "unknown"
    assert looking.learned == {str(fake.host): f"ssh-ed25519 {fake.key.get_fingerprint()}"}


@pytest.mark.acceptance
async def test_a_hundred_servers_are_swept(access, fakes: Fakes):
    found = [await fakes.ssh(address=f"127.0.1.{number}") for number in range(1, 101)]
    known = "".join(one.known_hosts for one in found)
    servers = [server(f"s{n}", one.host) for n, one in enumerate(found)]

    checks = await sweep(access(known_hosts=known)).over(servers)

    assert Counter(one.outcome for one in checks) == {"up": 100}
    assert [one.connections for one in found] == [1] * 100


# -- the table


def test_the_table_shows_the_worst_first():
    full = Problem("resource_exhausted", "critical", "The disk at / is 97 % full.", "disk /")
    checks = [
        Check("fine", "up", facts={"disks": [{"used_percent": 20}], "load": (0.5, 0, 0)}),
        Check("gone", "down", "There is no connection."),
        Check("who", "unknown", "Its name does not resolve."),
        Check("full", "up", facts={"disks": [{"used_percent": 97}]}, problems=[full]),
        Check("odd", "up", facts={}),
    ]

    rows = table(checks, {"full": "critical", "odd": "degraded", "fine": "up", "gone": "down"})

    assert [row["server"] for row in rows] == ["full", "gone", "odd", "who", "fine"]
    assert rows[0]["what"] == "The disk at / is 97 % full."
    assert rows[-1]["disk %"] == 20
