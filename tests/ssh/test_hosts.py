import asyncio
import logging
import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import asyncssh
import pytest

from blocks.ssh import SSHAccess
from blocks.ssh_hosts import (
    MOST_BYTES,
    Host,
    HostDown,
    HostKeyChanged,
    HostUnknown,
)
from flows import vitals
from tests.ssh.conftest import HEALTHY, ME, Fakes, line, text

needs_sshd = pytest.mark.needs("sshd", "openssh-server")


async def run(access: SSHAccess, host: Host, command: str = "echo hello", **how):
    async with access.opened(**how) as hosts:
        return await hosts.run(host, command)


# -- OpenSSH's server


@needs_sshd
async def test_a_command_runs_on_a_real_server(access, sshd):
    before = datetime.now(UTC)
    answer = await run(access(known_hosts=sshd.known_hosts), sshd.host, "echo hello; echo no >&2")

    assert (answer.output, answer.whole, answer.status) == (b"hello\n", True, 0)
    assert before <= answer.sent_at <= datetime.now(UTC)
    assert 0 < answer.first_seconds < 10


@needs_sshd
async def test_the_tests_own_server_is_nobody_s_home(access, sshd):
    answer = await run(access(known_hosts=sshd.known_hosts), sshd.host, 'echo "$HOME"')

    assert answer.output.decode().strip() == str(sshd.home)


@needs_sshd
async def test_a_real_server_s_vital_signs_are_read(access, sshd):
    answer = await run(access(known_hosts=sshd.known_hosts), sshd.host, vitals.COMMAND)

    said = vitals.read(answer.output)
    assert said.unread == []
    assert said.cores == os.cpu_count()
    ahead = vitals.skew(said, answer.sent_at, answer.first_seconds)
    assert [one for one in vitals.problems(said, ahead, 30) if one.kind == "clock_skew"] == []


@needs_sshd
async def test_an_encrypted_key_logs_in_with_its_passphrase(access, sshd, client_key):
    locked = access(
        known_hosts=sshd.known_hosts, private_key=text(client_key, "right"), passphrase="right"
    )

    assert (await run(locked, sshd.host)).output == b"hello\n"


@needs_sshd
async def test_a_key_whose_lines_a_form_has_made_one_logs_in(access, sshd, client_key):
    folded = access(
        known_hosts=sshd.known_hosts, private_key=" ".join(text(client_key).splitlines())
    )

    assert (await run(folded, sshd.host)).output == b"hello\n"


@needs_sshd
async def test_a_key_that_the_server_does_not_know_is_our_fault(access, sshd, stranger_key):
    stranger = access(known_hosts=sshd.known_hosts, private_key=text(stranger_key))

    with pytest.raises(HostUnknown, match="does not let this user in"):
        await run(stranger, sshd.host)


@needs_sshd
async def test_a_server_that_ends_the_login_after_a_wrong_key_is_our_fault(
    access, sshd, stranger_key
):
    sshd.stop()
    sshd.settings = "MaxAuthTries 1\n"
    sshd.start()

    with pytest.raises(HostUnknown, match="ends the login: Too many authentication failures"):
        await run(access(known_hosts=sshd.known_hosts, private_key=text(stranger_key)), sshd.host)


@needs_sshd
async def test_a_host_that_is_not_listed_is_left_alone(access, sshd):
    with pytest.raises(HostUnknown, match=r"host key ssh-ed25519 SHA256:\S+ is unknown") as caught:
        await run(access(), sshd.host)

    assert not isinstance(caught.value, HostKeyChanged)


@needs_sshd
async def test_a_host_that_shows_another_key_has_changed(access, sshd):
    known = sshd.known_hosts
    sshd.stop()
    sshd.host_keys = [asyncssh.generate_private_key("ssh-ed25519")]
    sshd.start()

    with pytest.raises(HostKeyChanged, match="is not the one that the known hosts list"):
        await run(access(known_hosts=known), sshd.host)


@needs_sshd
async def test_a_host_that_has_lost_the_known_type_of_key_has_changed(access, sshd):
    known = sshd.known_hosts
    sshd.stop()
    sshd.host_keys = [asyncssh.generate_private_key("ecdsa-sha2-nistp256")]
    sshd.start()

    with pytest.raises(HostKeyChanged):
        await run(access(known_hosts=known), sshd.host)


@needs_sshd
async def test_a_host_with_several_keys_is_asked_for_the_one_that_is_listed(access, sshd):
    listed = line("127.0.0.1", sshd.port, sshd.host_keys[1])

    assert (await run(access(known_hosts=listed), sshd.host)).output == b"hello\n"


@pytest.mark.needs("ssh-keygen", "openssh-client")
async def test_a_host_may_be_listed_hashed(access, fakes: Fakes, tmp_path):
    fake = await fakes.ssh(b"hello")
    (tmp_path / "hosts").write_text(fake.known_hosts)
    command = ["ssh-keygen", "-q", "-H", "-f", str(tmp_path / "hosts")]
    assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0
    hashed = (tmp_path / "hosts").read_text()

    assert "127.0.0.1" not in hashed
    assert (await run(access(known_hosts=hashed), fake.host)).output == b"hello"


async def test_a_host_with_a_certificate_is_known_by_the_authority(access, fakes: Fakes):
    authority = asyncssh.generate_private_key("ssh-ed25519")
    certificate = authority.generate_host_certificate(
        fakes.host_key, "web-1", principals=["web-1.example.com"]
    )
    fake = await fakes.ssh(b"hello", certificate=certificate)
    named = Host("127.0.0.1", fake.host.port, name="web-1.example.com")
    other = Host("127.0.0.1", fake.host.port, name="web-2.example.com")
    key = authority.export_public_key().decode()

    trusting = access(known_hosts=f"@cert-authority *.example.com {key}")
    assert (await run(trusting, named)).output == b"hello"
    with pytest.raises(HostUnknown, match="certificate does not hold") as caught:
        await run(trusting, other)
    assert not isinstance(caught.value, HostKeyChanged)


@needs_sshd
async def test_a_host_may_be_listed_by_its_name_and_a_key_be_revoked(access, sshd):
    key = sshd.host_keys[0].export_public_key().decode().strip()
    named = Host("127.0.0.1", sshd.port, name="vps-1.example.com")

    for known in (f"[vps-1.example.com]:{sshd.port} {key}", f"vps-1.example.com,10.0.0.1 {key}"):
        assert (await run(access(known_hosts=known), named)).output == b"hello\n"
    with pytest.raises(HostKeyChanged):
        await run(access(known_hosts=f"@cert-authority *.example.com {key}"), named)
    with pytest.raises(HostKeyChanged, match="revoked"):
        await run(access(known_hosts=f"@revoked *.example.com {key}"), named)


@needs_sshd
async def test_a_key_is_trusted_when_it_is_seen_first_and_no_other_after_that(access, sshd):
    trusting = access(host_keys="trust-on-first-use")
    async with trusting.opened() as hosts:
        await hosts.run(sshd.host, "true")
        learned = dict(hosts.learned)
    assert list(learned) == [f"127.0.0.1:{sshd.port}"]

    async with trusting.opened(learned) as hosts:
        await hosts.run(sshd.host, "true")
        assert hosts.learned == {}
    sshd.stop()
    sshd.host_keys = [asyncssh.generate_private_key("ssh-ed25519")]
    sshd.start()
    with pytest.raises(HostKeyChanged, match="which is not the one that was seen first"):
        await run(trusting, sshd.host, trusted=learned)
    # Whoever runs the server has to say that this is right.
    assert (await run(access(known_hosts=sshd.known_hosts), sshd.host)).output == b"hello\n"


@needs_sshd
async def test_the_agent_of_whoever_runs_this_is_neither_asked_nor_forwarded(
    access, sshd, stranger_key, monkeypatch, tmp_path
):
    asked = []
    agent = await asyncio.start_unix_server(lambda *_: asked.append(1), tmp_path / "agent")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))

    answer = await run(access(known_hosts=sshd.known_hosts), sshd.host, 'echo "$SSH_AUTH_SOCK"')
    with pytest.raises(HostUnknown):
        await run(access(known_hosts=sshd.known_hosts, private_key=text(stranger_key)), sshd.host)

    assert answer.output == b"\n"
    assert asked == []
    agent.close()
    await agent.wait_closed()


@needs_sshd
async def test_no_file_of_whoever_runs_this_is_read(access, sshd, monkeypatch, tmp_path):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host *\n  User nobody\n  Port 1\n")
    (tmp_path / ".ssh" / "known_hosts").write_text(sshd.known_hosts)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert (await run(access(known_hosts=sshd.known_hosts), sshd.host)).output == b"hello\n"
    with pytest.raises(HostUnknown, match="is unknown"):
        await run(access(), sshd.host)


@needs_sshd
async def test_a_command_that_hangs_is_given_up(access, sshd):
    hasty = access(known_hosts=sshd.known_hosts, command_seconds=0.5)

    with pytest.raises(HostDown, match=r"does not end within 0\.5 s"):
        await run(hasty, sshd.host, "sleep 5")


@needs_sshd
async def test_no_more_than_256_kib_are_read(access, sshd):
    answer = await run(access(known_hosts=sshd.known_hosts), sshd.host, "yes")

    assert (len(answer.output), answer.whole, answer.status) == (MOST_BYTES, False, None)


@needs_sshd
async def test_a_jump_host_leads_to_hosts_that_it_sees(access, sshd, fakes: Fakes):
    inner = await fakes.ssh(b"inner")
    through = access(
        jump=f"{ME}@127.0.0.1:{sshd.port}", known_hosts=sshd.known_hosts + inner.known_hosts
    )

    async with through.opened() as hosts:
        assert (await hosts.run(inner.host, "x")).output == b"inner"
        with pytest.raises(HostDown, match="no connection"):
            await hosts.run(fakes.refusing(), "x")
        assert (await hosts.run(inner.host, "x")).output == b"inner"


@needs_sshd
async def test_a_jump_host_that_fails_says_nothing_about_the_others(access, sshd, fakes: Fakes):
    inner = await fakes.ssh(b"inner")

    for known in ("", inner.known_hosts):
        with pytest.raises(HostUnknown, match=f"The jump host {ME}@127.0.0.1:{sshd.port}: "):
            await run(access(jump=f"{ME}@127.0.0.1:{sshd.port}", known_hosts=known), inner.host)
    nowhere = f"{ME}@{fakes.refusing()}"
    with pytest.raises(HostUnknown, match=f"The jump host {nowhere}: There is no connection"):
        await run(access(jump=nowhere, known_hosts=inner.known_hosts), inner.host)


async def test_a_jump_host_that_breaks_off_says_nothing_about_the_others(access, fakes: Fakes):
    jump, inner = await fakes.ssh(forwards=True), await fakes.ssh(b"inner")
    through = access(jump=f"{ME}@{jump.host}", known_hosts=jump.known_hosts + inner.known_hosts)

    async with through.opened() as hosts:
        assert (await hosts.run(inner.host, "x")).output == b"inner"
        assert hosts.tunnel is not None
        hosts.tunnel.abort()
        await hosts.tunnel.wait_closed()
        with pytest.raises(HostUnknown, match=f"jump host {ME}@{jump.host} has broken off"):
            await hosts.run(inner.host, "x")


async def test_a_jump_host_that_does_not_forward_is_our_fault(access, fakes: Fakes):
    jump, inner = await fakes.ssh(forwards=False), await fakes.ssh()
    through = access(jump=f"{ME}@{jump.host}", known_hosts=jump.known_hosts + inner.known_hosts)

    with pytest.raises(HostUnknown, match="jump host does not connect us"):
        await run(through, inner.host)


# -- servers that misbehave


async def test_a_port_where_nobody_listens_is_down(access, fakes: Fakes):
    with pytest.raises(HostDown, match="no connection"):
        await run(access(), fakes.refusing())


async def test_a_server_that_says_nothing_is_down_after_its_time(access, fakes: Fakes):
    with pytest.raises(HostDown, match=r"does not let us in within 0\.3 s"):
        await run(access(connect_seconds=0.3), await fakes.silent())


async def test_a_connection_that_is_reset_is_down(access, fakes: Fakes):
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    with pytest.raises(HostDown):
        await run(access(), await fakes.tcp(reset))


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 70_000, b""])
async def test_a_port_where_something_else_listens_is_down(access, fakes: Fakes, said: bytes):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    with pytest.raises(HostDown):
        await run(access(), await fakes.tcp(serve))


async def test_a_name_that_does_not_resolve_is_our_fault(access):
    with pytest.raises(HostUnknown, match="does not resolve"):
        await run(access(), Host("no-such-host.invalid"))


@needs_sshd
async def test_a_name_that_the_jump_host_cannot_resolve_is_our_fault(access, sshd):
    through = access(jump=f"{ME}@127.0.0.1:{sshd.port}", known_hosts=sshd.known_hosts)

    with pytest.raises(HostUnknown, match="does not resolve"):
        await run(through, Host("no-such-host.invalid"))


async def test_a_resolver_that_hangs_is_our_fault(access):
    released = threading.Event()

    async def look() -> None:
        # Names are looked up in threads of this pool; its only one is taken.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        taken = asyncio.get_running_loop().run_in_executor(None, released.wait)
        try:
            with pytest.raises(HostUnknown, match=r"is not resolved within 0\.3 s"):
                await run(access(connect_seconds=0.3), Host("web-1.example.com"))
        finally:
            released.set()
            await taken

    await asyncio.to_thread(asyncio.run, look())


async def test_a_name_is_found_at_whichever_of_its_addresses_answers(access, fakes: Fakes):
    # It listens at one of them only; the other is ::1, or another name's.
    fake = await fakes.ssh(b"hello")
    known = line("localhost", fake.host.port, fake.key)

    answer = await run(access(known_hosts=known), Host("localhost", fake.host.port))
    assert answer.output == b"hello"


async def test_a_network_without_a_way_is_our_fault(access):
    # An address of no network here: the kernel refuses before it sends anything.
    with pytest.raises(HostUnknown, match="no way to it from here"):
        await run(access(), Host("255.255.255.255"))


async def test_a_server_that_runs_no_command_is_our_fault(access, fakes: Fakes):
    host = await fakes.ssh()

    class NoSessions(asyncssh.SSHServer):
        def session_requested(self) -> bool:
            return False

        def begin_auth(self, username: str) -> bool:
            return False

    async with await asyncssh.create_server(
        NoSessions, "127.0.0.1", 0, server_host_keys=[fakes.host_key]
    ) as listener:
        closed = Host("127.0.0.1", listener.get_port())
        known = line("127.0.0.1", closed.port, host.key)
        with pytest.raises(HostUnknown, match="no command may be run"):
            await run(access(known_hosts=known), closed)


async def test_a_server_that_breaks_off_during_the_command_is_down(access, fakes: Fakes):
    async def cut(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(HEALTHY[:50])
        process.channel.get_connection().abort()

    fake = await fakes.ssh(cut)
    with pytest.raises(HostDown, match="broke off"):
        await run(access(known_hosts=fake.known_hosts), fake.host)


async def test_a_connection_is_closed_when_its_check_is_cancelled(access, fakes: Fakes):
    started = asyncio.Event()

    async def hang(process: asyncssh.SSHServerProcess[bytes]) -> None:
        started.set()
        await process.wait_closed()

    fake = await fakes.ssh(hang)
    check = asyncio.create_task(run(access(known_hosts=fake.known_hosts), fake.host))
    await started.wait()
    assert fake.open == 1
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
    async with asyncio.timeout(10):
        while fake.open:  # noqa: ASYNC110 - the other end has no event
            await asyncio.sleep(0.01)


async def test_neither_logs_nor_errors_hold_the_key(access, sshd, caplog, stranger_key):
    caplog.set_level(logging.DEBUG)
    secret = text(stranger_key)
    with pytest.raises(HostUnknown) as caught:
        await run(access(known_hosts=sshd.known_hosts, private_key=secret), sshd.host)

    body = secret.splitlines()[2]
    assert body not in caplog.text
    assert body not in str(caught.value)
