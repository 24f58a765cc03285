"""Commands as real processes."""

import asyncio
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows import commands
from flows.commands import TAIL_BYTES, CannotBegin, Ended, run


def alive(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - processes have no event
            await asyncio.sleep(0.02)


def written(file: Path) -> list[int]:
    return [int(one) for one in file.read_text().split()] if file.exists() else []


async def pids(file: Path, count: int = 1) -> list[int]:
    """Waits until so many processes have written their ids."""
    await until(lambda: len(written(file)) >= count)
    return written(file)


async def test_the_exit_code_and_the_output_are_those_of_the_command():
    assert await run("echo out; echo err >&2; exit 3") == Ended(3, "out\nerr\n")


async def test_lines_come_one_by_one_and_the_last_one_without_an_end_too():
    lines: list[str] = []

    await run("printf 'one\\r\\ntwo\\n\\nlast'", on_line=lines.append)

    assert lines == ["one", "two", "", "last"]


async def test_a_line_is_there_before_the_command_has_ended(tmp_path: Path):
    file, seen = tmp_path / "go", asyncio.Event()

    running = asyncio.create_task(
        run(
            f"echo early; while [ ! -e {file} ]; do sleep 0.02; done",
            on_line=lambda line: seen.set(),
        )
    )
    await asyncio.wait_for(seen.wait(), 10)
    file.touch()

    assert (await running).exit_code == 0


async def test_what_is_no_text_is_replaced():
    lines: list[str] = []

    ended = await run(r"printf 'a\377b\000c\303'", on_line=lines.append)

    assert lines == ["a\ufffdb\ufffdc\ufffd"]
    assert ended.tail == "a\ufffdb\ufffdc\ufffd"


async def test_a_character_in_two_parts_is_one():
    lines: list[str] = []

    await run(r"printf '\303'; sleep 0.2; printf '\244\n'", on_line=lines.append)

    assert lines == ["ä"]


async def test_long_lines_are_cut():
    lines: list[str] = []

    await run("head -c 9000 /dev/zero | tr '\\0' x; echo; echo next", on_line=lines.append)

    assert [len(line) for line in lines] == [4000, 4000, 1000, 4]


async def test_a_hundred_megabytes_take_no_more_memory_than_a_few():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = 0

    def on_line(line: str) -> None:
        nonlocal count
        count += 1

    ended = await run("yes 0123456789 | head -c 100000000; echo the end", on_line=on_line)

    assert count == 100_000_000 // 11 + 1
    assert len(ended.tail.encode()) == TAIL_BYTES
    assert ended.tail.endswith("the end\n")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB


async def test_the_tail_never_takes_more_bytes_than_it_may():
    ended = await run(r"head -c 100000 /dev/zero | tr '\0' '\377'")

    assert len(ended.tail.encode()) <= TAIL_BYTES


async def test_nothing_of_the_worker_s_secrets_is_in_the_environment(monkeypatch):
    monkeypatch.setenv("ROTA_DATABASE_URL", "postgresql://me:s3cret@there/rota")
    monkeypatch.setenv("TZ", "Europe/Berlin")

    ended = await run("env", environment={"GREETING": "good day"})

    names = {line.partition("=")[0] for line in ended.tail.splitlines()}
    assert names <= {*commands.INHERITED, "GREETING", "PWD", "SHLVL", "_", "OLDPWD"}
    assert "GREETING=good day" in ended.tail
    assert "TZ=Europe/Berlin" in ended.tail


async def test_it_runs_in_its_directory(tmp_path: Path):
    assert (await run("pwd", directory=str(tmp_path))).tail.strip() == str(tmp_path)


async def test_a_directory_that_is_not_there_is_named():
    with pytest.raises(CannotBegin, match=r"directory: '/nowhere' cannot be used"):
        await run("true", directory="/nowhere")


async def test_a_command_with_a_nul_is_refused():
    with pytest.raises(CannotBegin, match="command: "):
        await run("echo \0")


async def test_the_input_is_empty():
    assert (await run("cat; echo done")).tail == "done\n"


async def test_only_the_three_standard_files_are_open():
    # The shell itself has one more while it reads the directory.
    ended = await run("sleep 0.01; ls /proc/self/fd | tr '\\n' ' '")

    assert ended.tail.split()[:3] == ["0", "1", "2"]
    assert len(ended.tail.split()) == 4


@pytest.mark.wall_clock
async def test_the_time_limit_ends_the_whole_group(tmp_path: Path):
    file = tmp_path / "pids"
    began = time.monotonic()

    ended = await run(
        f"sh -c 'echo $$ >> {file}; exec sleep 60' & echo $$ >> {file}; echo begun; wait",
        timeout_seconds=0.5,
    )

    assert ended == Ended(128 + signal.SIGTERM, "begun\n", timed_out=True)
    assert time.monotonic() - began < 5
    for pid in await pids(file, 2):
        await until(lambda pid=pid: not alive(pid))


async def test_who_does_not_heed_sigterm_is_killed(tmp_path: Path):
    file = tmp_path / "pids"

    ended = await run(
        f"trap '' TERM; echo $$ >> {file}; while :; do sleep 0.1; done",
        timeout_seconds=0.3,
        grace_seconds=0.5,
    )

    assert (ended.exit_code, ended.timed_out) == (128 + signal.SIGKILL, True)
    for pid in await pids(file):
        assert not alive(pid)


async def test_who_heeds_sigterm_has_the_time_to_clean_up():
    ended = await run(
        "trap 'echo cleaned; exit 7' TERM; echo begun; while :; do sleep 0.05; done",
        timeout_seconds=0.5,
    )

    assert ended.exit_code == 7
    assert ended.tail.endswith("cleaned\n")


SPAWNED = "sh -c 'echo $$ > {0}; exec sleep 60' & while [ ! -s {0} ]; do :; done"


@pytest.mark.wall_clock
async def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path):
    file = tmp_path / "pids"
    began = time.monotonic()

    ended = await run(
        f"sh -c 'echo $$ > {file}; exec sleep 60' & while [ ! -s {file} ]; do :; done"
    )

    assert ended.exit_code == 0
    assert time.monotonic() - began < 5
    for pid in await pids(file):
        await until(lambda pid=pid: not alive(pid))


@pytest.mark.wall_clock
async def test_what_has_left_the_group_does_not_hold_up_its_end(tmp_path: Path):
    file = tmp_path / "pids"
    began = time.monotonic()

    await run(f"setsid {SPAWNED.format(file)}")

    assert time.monotonic() - began < 5
    for pid in await pids(file):
        os.kill(pid, signal.SIGKILL)


async def test_cancelling_the_task_ends_the_group_and_tells_how(tmp_path: Path):
    file = tmp_path / "pids"
    told: list[Ended] = []

    async def tell(ended: Ended) -> None:
        await asyncio.sleep(0)
        told.append(ended)

    task = asyncio.create_task(
        run(
            f"sh -c 'echo $$ >> {file}; exec sleep 60' & echo $$ >> {file}; echo begun; wait",
            on_interrupted=tell,
        )
    )
    found = await pids(file, 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert told == [Ended(128 + signal.SIGTERM, "begun\n")]
    for pid in found:
        await until(lambda pid=pid: not alive(pid))


CALLER = """
import asyncio, sys
from flows import commands

commands.SHELL = sys.argv[2]
asyncio.run(commands.run(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "shell",
    [
        pytest.param("dash", marks=pytest.mark.needs("dash", "dash")),
        pytest.param("bash", marks=pytest.mark.needs("bash", "bash")),
    ],
)
@pytest.mark.acceptance
async def test_a_command_dies_with_its_caller_whatever_that_dies_of(tmp_path: Path, shell: str):
    file = tmp_path / "pids"
    deaf = "trap '' TERM HUP INT; "
    command = f"{deaf} sh -c '{deaf} echo $$ >> {file}; sleep 60' & echo $$ >> {file}; wait"
    caller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CALLER, command, str(shutil.which(shell)))
    )
    try:
        found = await pids(file, 2)
        assert all(map(alive, found))
        caller.kill()
        await caller.wait()
        for pid in found:
            await until(lambda pid=pid: not alive(pid))
    finally:
        if caller.returncode is None:
            caller.kill()
            await caller.wait()


async def test_many_at_once_are_told_apart():
    ended = await asyncio.gather(*(run(f"echo {number}; exit {number}") for number in range(40)))

    assert [(one.exit_code, one.tail) for one in ended] == [
        (number, f"{number}\n") for number in range(40)
    ]


async def test_no_file_stays_open():
    for _ in range(3):
        await run("true")
    await asyncio.sleep(0.05)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        await run("true")
    with pytest.raises(CannotBegin):
        await run("true", directory="/nowhere")
    await asyncio.sleep(0.05)

    assert len(os.listdir("/proc/self/fd")) <= before
