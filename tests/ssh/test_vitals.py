import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import vitals
from flows.vitals import Disk, Problem
from tests.ssh.conftest import HEALTHY

AT = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)  # when `HEALTHY` was said


def with_section(name: str, *lines: str) -> bytes:
    """Returns what a healthy host says, but for one section."""
    before, _, rest = HEALTHY.decode().partition(f"[{name}]\n")
    after = rest[rest.index("[") :]
    return (before + "\n".join([f"[{name}]", *lines]) + "\n" + after).encode()


def problems(output: bytes) -> list[Problem]:
    said = vitals.read(output)
    return vitals.problems(said, vitals.skew(said, AT, 0.0), skew_seconds=30)


def disks(*rows: str) -> list[Disk]:
    return vitals.read(with_section("disks", "Filesystem ... Mounted on", *rows)).disks


def test_a_healthy_host_is_read_and_nothing_is_wrong():
    said = vitals.read(HEALTHY)

    assert vitals.facts(said, vitals.skew(said, AT, 0.5)) == {
        "load": (0.1, 0.2, 0.3),
        "cores": 2,
        "memory_kb": 2_000_000,
        "memory_percent": 25.0,
        "uptime_seconds": 86_400,
        "clock_skew_seconds": -0.2,
        "docker": "absent",
        "disks": [{"mount": "/", "size_kb": 10_000_000, "used_percent": 20}],
    }
    assert said.unread == []
    assert problems(HEALTHY) == []


@pytest.mark.parametrize(
    ("percent", "level"), [(89, None), (90, "degraded"), (94, "degraded"), (95, "critical")]
)
def test_a_disk_is_degraded_from_90_and_critical_from_95_percent(percent: int, level: str | None):
    found = problems(with_section("disks", f"/dev/vda1 100 {percent} 5 {percent}% /var"))

    text = f"The disk at /var is {percent} % full."
    wanted = Problem("resource_exhausted", level or "degraded", text, "disk /var")  # type: ignore[arg-type]
    assert found == ([wanted] if level else [])


def test_each_full_disk_is_a_problem_of_its_own_and_the_fullest_comes_first():
    output = with_section(
        "disks",
        "Filesystem 1024-blocks Used Available Capacity Mounted on",
        "/dev/vda1 100 91 9 91% /",
        "/dev/vdb 100 20 80 20% /srv",
        "/dev/vdc 100 99 1 99% /var lib/my data",
        "nas:/export/all of it 100 100 0 100% /mnt/nas",
        "tank/data 100 96 4 96% /tank",
    )

    assert [(one.about, one.level) for one in problems(output)] == [
        ("disk /mnt/nas", "critical"),
        ("disk /var lib/my data", "critical"),
        ("disk /tank", "critical"),
        ("disk /", "degraded"),
    ]


@pytest.mark.parametrize(
    "row",
    [
        "tmpfs 100 100 0 100% /dev/shm",
        "udev 100 100 0 100% /dev",
        "/dev/loop3 100 100 0 100% /snap/core/1",
        "/dev/sr0 100 100 0 100% /media/cdrom",
        "overlay 100 100 0 100% /var/lib/docker/overlay2/abc/merged",
        "shm 100 100 0 100% /var/lib/docker/containers/abc/mounts/shm",
        "/dev/vdb 100 100 0 100% /var/lib/kubelet/pods/abc",
        "efivarfs 100 100 0 100% /sys/firmware/efi/efivars",
        "none 0 0 0 - /proc",
    ],
)
def test_what_is_no_disk_is_left_out(row: str):
    assert disks("/dev/vda1 100 20 80 20% /", row) == [Disk("/", 100, 20)]


def test_the_root_of_a_container_counts():
    assert disks("overlay 100 97 3 97% /") == [Disk("/", 100, 97)]


def test_a_disk_that_is_mounted_twice_counts_once_at_its_own_place():
    rows = ["/dev/vda1 100 97 3 97% /var/snap/here", "/dev/vda1 100 97 3 97% /"]

    assert disks(*rows) == [Disk("/", 100, 97)]


def test_a_host_with_hundreds_of_disks_shows_the_fullest():
    found = disks(*[f"/dev/d{n} 100 {n % 100} 9 {n % 100}% /mnt/{n}" for n in range(500)])

    assert len(found) == vitals.DISKS
    assert {one.used_percent for one in found} == set(range(96, 100))


def test_a_mount_with_control_characters_is_named_without_them():
    assert (
        disks("/dev/vda1 100 97 3 97% /a\x1b[31mb" + "c" * 500)[0].mount
        == ("/a?[31mb" + "c" * 500)[: vitals.MOUNT_BYTES]
    )


def test_a_long_name_of_a_mount_is_cut_between_two_characters():
    [disk] = disks("/dev/vda1 100 97 3 97% /" + "\N{GRINNING FACE}" * 200)

    assert disk.mount == "/" + "\N{GRINNING FACE}" * 19


@pytest.mark.parametrize(("available", "wrong"), [(201, False), (200, True), (0, True)])
def test_memory_is_scarce_from_90_percent(available: int, wrong: bool):
    found = problems(
        with_section("memory", "MemTotal: 2000 kB", "junk", f"MemAvailable: {available} kB")
    )

    assert [(one.kind, one.about, one.level) for one in found] == (
        [("resource_exhausted", "memory", "degraded")] if wrong else []
    )


def test_an_old_kernel_does_not_say_what_is_available():
    rows = ["MemTotal: 1000 kB", "MemFree: 50 kB", "Buffers: 50 kB", "Cached: 400 kB"]

    assert vitals.read(with_section("memory", *rows)).memory_percent == 50


@pytest.mark.parametrize(("load", "wrong"), [("8.00", False), ("8.01", True)])
def test_the_load_is_too_high_above_four_times_the_cores(load: str, wrong: bool):
    found = problems(with_section("load", f"{load} 0.00 0.00 1/200 4000"))

    assert [(one.kind, one.about) for one in found] == (
        [("resource_exhausted", "load")] if wrong else []
    )


@pytest.mark.parametrize(
    ("state", "wrong"),
    [("absent", False), ("unknown", False), ("active", False), ("failed", True)],
)
def test_docker_that_is_there_has_to_be_active(state: str, wrong: bool):
    found = problems(with_section("docker", state))

    assert [(one.kind, one.about) for one in found] == (
        [("service_down", "docker")] if wrong else []
    )


@pytest.mark.parametrize(
    ("off", "round_trip", "wrong"),
    [(29, 0, False), (31, 0, True), (-31, 0, True), (33, 6, False), (-40, 6, True)],
)
def test_a_clock_is_wrong_only_beyond_what_the_way_may_have_taken(
    off: int, round_trip: int, wrong: bool
):
    said = vitals.read(HEALTHY)
    sent_at = AT - timedelta(seconds=off)

    found = vitals.problems(said, vitals.skew(said, sent_at, round_trip), skew_seconds=30)

    assert [one.kind for one in found] == (["clock_skew"] if wrong else [])


@pytest.mark.parametrize("said", ["1700000000", "1700000000 %N", "1700000000 N"])
def test_a_clock_without_fractions_is_read(said: str):
    assert vitals.read(with_section("clock", said)).clock == AT


@pytest.mark.parametrize(
    ("section", "lines"),
    [
        ("clock", ["soon"]),
        ("clock", ["99999999999999 000000000"]),
        ("load", ["1.0"]),
        ("load", ["nan inf -1"]),
        ("cores", ["0"]),
        ("cores", []),
        ("memory", ["MemTotal: 0 kB", "MemAvailable: 0 kB"]),
        ("memory", ["MemTotal:"]),
        ("uptime", ["-5"]),
        ("docker", ["Illegal instruction"]),
        ("disks", ["df: not found"]),
        ("disks", ["/dev/vda1 100 20 80 120% /"]),
    ],
)
def test_one_section_that_is_garbage_leaves_the_others(section: str, lines: list[str]):
    said = vitals.read(with_section(section, *lines))

    assert said.unread == [section]
    [problem] = vitals.problems(said, None, 30)
    assert (problem.kind, problem.level) == ("unreadable", "degraded")
    assert section in problem.text


@pytest.mark.parametrize("output", [b"", b"\xff\xfe\x00", b"This account is not available.\n"])
def test_a_host_that_says_nothing_sensible_is_unreadable(output: bytes):
    said = vitals.read(output)

    [problem] = vitals.problems(said, vitals.skew(said, AT, 0), 30)
    assert problem.text == "Its answer does not say anything, or not legibly."


def test_an_answer_that_was_cut_off_is_noticed():
    said = vitals.read(HEALTHY[: HEALTHY.index(b"[disks]")])

    assert said.unread == ["disks", "end"]
    assert said.memory_percent == 25


@given(st.binary(max_size=400), st.integers(0, len(HEALTHY)), st.integers(0, len(HEALTHY)))
def test_no_answer_whatever_breaks_the_reader(junk: bytes, since: int, until: int):
    output = HEALTHY[:since] + junk + HEALTHY[until:]
    said = vitals.read(output)

    ahead = vitals.skew(said, AT, 0.1)
    vitals.facts(said, ahead)
    vitals.problems(said, ahead, 30)


def test_the_command_can_stand_in_any_login_shell_and_holds_nothing_from_outside():
    script = vitals.COMMAND.removeprefix("exec sh -c '").removesuffix("'")

    assert not set("'!\\\n") & set(script)
    assert len(vitals.COMMAND) < 2000


SHELLS = [["sh", "-c"], ["bash", "-c"], ["dash", "-c"], ["busybox", "sh", "-c"]]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_the_command_works_here_in_whatever_shell(shell: list[str]):
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is missing")
    began = datetime.now(UTC)
    done = subprocess.run([*shell, vitals.COMMAND], capture_output=True, check=True, timeout=30)

    said = vitals.read(done.stdout)
    assert done.stderr == b""
    assert said.unread == []
    assert said.cores == os.cpu_count()
    assert [one.mount for one in said.disks if one.mount == "/"] == ["/"]
    assert said.clock is not None
    assert abs(said.clock - began) < timedelta(seconds=30)


@pytest.mark.needs("busybox", "busybox")
def test_the_command_works_with_busybox_s_programs(tmp_path):
    busybox = shutil.which("busybox")
    assert busybox is not None
    subprocess.run([busybox, "--install", "-s", str(tmp_path)], check=True)
    command = [busybox, "sh", "-c", vitals.COMMAND]
    env = {"PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, check=True, timeout=30, env=env)

    said = vitals.read(done.stdout)
    assert said.unread == []
    assert said.memory_kb is not None
    assert [one.mount for one in said.disks if one.mount == "/"] == ["/"]
