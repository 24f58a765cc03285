"""`rota up`: the whole house on one machine, and what is left when something in it is killed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

ROTA = [sys.executable, "-m", "scripts.rota"]


@dataclass
class Up:
    """One `rota up` on a home and ports of its own."""

    home: Path
    prefect: int
    service: int
    process: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "PREFECT_" not in name}
        return kept | {
            "ROTA_HOME": str(self.home),
            "ROTA_PREFECT_PORT": str(self.prefect),
            "ROTA_SERVICE_PORT": str(self.service),
        }

    def start(self) -> None:
        self.output = self.home.parent / "up.log"
        with self.output.open("w") as log:
            self.process = subprocess.Popen(
                [*ROTA, "up"],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def rota(self, *arguments: str) -> str:
        environment = self.environment
        del environment["ROTA_PREFECT_PORT"]  # a second terminal knows only the home
        done = subprocess.run(
            [*ROTA, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, 2), done.stderr
        return done.stdout

    def sql(self, statement: str) -> str:
        return self.rota("db", "shell", "-Atc", statement).strip()

    def stop(self, by: signal.Signals) -> float:
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(by)
        self.process.wait(30)
        return time.monotonic() - began

    def child(self, *words: str) -> psutil.Process:
        assert self.process is not None
        for process in psutil.Process(self.process.pid).children(recursive=True):
            if all(any(word in part for part in process.cmdline()) for word in words):
                return process
        raise AssertionError(f"no child has {words}: {self.output.read_text()}")

    def runs(self) -> int:
        return int(self.sql("select coalesce(sum(run_count), 0) from definitions") or 0)

    @property
    def left(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                of_home = process.environ().get("ROTA_HOME") == str(self.home)
                if of_home or any(str(self.home) in part for part in process.cmdline()):
                    found.append(" ".join(process.cmdline()))
        return found


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> float:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(AssertionError, ValueError, psutil.Error):
            if condition():
                return time.monotonic() - began
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_ports() -> list[int]:
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    root = tmp_path_factory.mktemp("up")
    running = Up(root / "home", *free_ports())
    running.start()
    yield running
    if running.process and running.process.poll() is None:
        running.stop(signal.SIGTERM)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(running.home) in part for part in process.cmdline()):
                process.kill()


def test_first_run_completes_within_90_seconds(up: Up) -> None:
    wait_until(lambda: "Completed" in up.output.read_text(), 90, "a run of the example roster")
    wait_until(lambda: up.runs() > 0, 10, "the run is on the row")
    said = up.output.read_text()
    assert f"http://127.0.0.1:{up.prefect}" in said
    assert "Due 20" in said


def test_a_changed_row_is_a_changed_deployment_two_seconds_later(up: Up) -> None:
    def cron() -> str:
        found = httpx.post(
            f"http://127.0.0.1:{up.prefect}/api/deployments/filter",
            json={"deployments": {"name": {"any_": ["acme.nightly-report"]}}},
        ).json()
        return str(found[0]["schedules"][0]["schedule"]["cron"])

    up.sql("update definitions set cron = '5 4 * * *' where name = 'nightly-report'")
    wait_until(lambda: cron() == "5 4 * * *", 2, "the new cron")


def test_a_second_up_on_the_same_home_says_so(up: Up) -> None:
    done = subprocess.run(
        [*ROTA, "up"], env=up.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "already runs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("scripts.rota", "watch"),
        ("worker", "start"),
        ("examples.workflow_service",),
        ("scripts.rota", "server"),
    ],
    ids=["watch", "worker", "service", "server"],
)
def test_a_killed_process_comes_back_and_runs_go_on(up: Up, words: tuple[str, ...]) -> None:
    victim = up.child(*words)
    victim.kill()
    wait_until(lambda: up.child(*words).pid != victim.pid, 30, "its successor")
    before = up.runs()
    wait_until(lambda: up.runs() > before, 120, "another run")


def test_a_killed_database_comes_back_and_runs_go_on(up: Up) -> None:
    pid = int((up.home / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: up.sql("select 1") == "1", 30, "the database")
    before = up.runs()
    wait_until(lambda: up.runs() > before, 120, "another run")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_it_stops_within_10_seconds_and_goes_on_with_the_same_data(
    up: Up, by: signal.Signals
) -> None:
    up.sql("update definitions set title = 'kept' where name = 'heartbeat'")
    assert up.stop(by) < 10
    assert up.process is not None
    assert up.process.returncode == 0
    assert up.left == []
    up.start()
    wait_until(lambda: "Prefect's UI" in up.output.read_text(), 20, "a second start")
    assert up.sql("select title from definitions where name = 'heartbeat'") == "kept"


def test_what_a_killed_up_leaves_behind_is_no_hindrance(up: Up) -> None:
    up.stop(signal.SIGKILL)
    up.start()
    wait_until(lambda: "Prefect's UI" in up.output.read_text(), 30, "a start after kill -9")
    wait_until(lambda: up.runs() >= 0 and json.loads(up.rota("list", "--json")), 10, "the list")
    assert up.stop(signal.SIGTERM) < 10
    wait_until(lambda: up.left == [], 5, "nothing is left")


def test_a_taken_port_is_said_in_one_sentence(tmp_path: Path) -> None:
    prefect, service = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", prefect))
        taken.listen()
        done = refused(Up(tmp_path / "home", prefect, service))
    assert f"Port {prefect}" in done
    assert "--prefect-port" in done


def test_a_home_that_cannot_be_written_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(Up(tmp_path / "file" / "home", *free_ports()))


def test_a_database_of_a_newer_version_is_said_in_one_sentence(tmp_path: Path) -> None:
    running = Up(tmp_path / "home", *free_ports())
    running.start()
    wait_until(lambda: running.sql("select 1") == "1", 60, "the database")
    wait_until(lambda: "Prefect's UI" in running.output.read_text(), 60, "the start")
    running.sql("update alembic_version set version_num = '9999'")
    running.stop(signal.SIGTERM)
    assert "newer" in refused(running)
    assert running.left == []


def refused(up: Up) -> str:
    done = subprocess.run(
        [*ROTA, "up"], env=up.environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr
