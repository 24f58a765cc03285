import subprocess
import sys

import pytest
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from blocks.ssh import SSHAccess
from blocks.ssh_hosts import Host, SSHUnusable
from tests.ssh.conftest import text


async def run(access: SSHAccess, host: Host, command: str = "echo hello", **how):
    async with access.opened(**how) as hosts:
        return await hosts.run(host, command)


class TestBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[SSHAccess]:
        return SSHAccess


def test_the_block_shows_neither_key_nor_passphrase(client_key):
    access = SSHAccess(private_key=text(client_key), passphrase="s3cret")

    shown = f"{access!r} {access} {access.model_dump_json()}"
    assert "OPENSSH" not in shown
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    "fields",
    [
        {"username": "root; reboot"},
        {"username": "-oProxyCommand=x"},
        {"jump": "bastion.example.com"},
        {"jump": "root@bastion:0"},
        {"jump": "root@bastion:65536"},
        {"jump": "root@-bastion"},
        {"jump": "root:secret@bastion"},
        {"host_keys": "accept"},
        {"connect_seconds": 0},
    ],
)
def test_fields_of_no_use_are_refused_without_being_repeated(fields):
    with pytest.raises(ValidationError) as caught:
        SSHAccess(private_key="x", **fields)

    assert str(next(iter(fields.values()))) not in str(caught.value).replace("0", "")


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_jump_is_none(empty):
    assert SSHAccess(private_key="x", jump=empty).jump is None


def test_the_block_s_module_does_not_bring_the_library():
    script = "import sys, blocks.ssh; print('asyncssh' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.stdout.strip() == "False"


async def test_what_is_no_key_is_refused_without_being_repeated(access):
    with pytest.raises(SSHUnusable, match="private_key is no private key") as caught:
        await run(access(private_key="hunter2"), Host("127.0.0.1"))

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_wrong_passphrase_is_told_from_a_wrong_key(access, client_key):
    locked = text(client_key, "right")

    with pytest.raises(SSHUnusable, match="passphrase"):
        await run(access(private_key=locked, passphrase="wrong"), Host("127.0.0.1"))
    with pytest.raises(SSHUnusable, match="passphrase"):
        await run(access(private_key=locked), Host("127.0.0.1"))


async def test_known_hosts_that_cannot_be_read_are_refused(access):
    with pytest.raises(SSHUnusable, match="known_hosts cannot be read"):
        await run(access(known_hosts="@nonsense x y z"), Host("127.0.0.1"))
