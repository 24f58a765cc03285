"""`rota up`: the whole house on one machine, and what is left when something in it is killed."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.house import ROTA, Up, free_ports, running, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.wall_clock, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up")) as started:
        yield started


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


def test_the_api_answers_who_has_the_token_that_up_has_made(up: Up) -> None:
    wait_until(lambda: httpx.get(f"http://127.0.0.1:{up.api}/healthz").is_success, 30, "the API")
    assert str(up.home / "api.token") in up.output.read_text()
    assert (up.home / "api.token").stat().st_mode & 0o077 == 0
    assert [one["slug"] for one in up.call("GET", "tenants").json()["items"]] == ["acme"]
    wait_until(lambda: up.call("GET", "../../readyz").json()["ready"], 10, "all is ready")


def test_flows_have_a_block_that_leads_to_the_api(up: Up) -> None:
    block = httpx.get(
        f"http://127.0.0.1:{up.prefect}/api/block_types/slug/records/block_documents/name/default",
        params={"include_secrets": True},
    ).json()["data"]
    assert block["base_url"].rstrip("/") == f"http://127.0.0.1:{up.api}"

    def ask(path: str) -> httpx.Response:
        address = f"http://127.0.0.1:{up.api}/api/v1/tenants/acme/{path}"
        return httpx.get(address, headers={"Authorization": f"Bearer {block['token']}"})

    assert ask("servers").json()["items"] == []
    assert ask("definitions").status_code == 403  # it is a worker's token


def test_a_second_up_on_the_same_home_says_so(up: Up) -> None:
    done = subprocess.run(
        [*ROTA, "up"], env=up.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "already runs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def busy(up: Up) -> None:
    """Has a run start every five seconds, so that nobody waits long for the next."""
    up.sql(
        "insert into definitions (tenant, name, duty, interval_seconds, anchor_at, parameters) "
        "select 'acme', 'busy-' || n, 'workflow_run', 60, "
        "timestamptz '2026-01-01 00:00:00Z' + n * interval '5 seconds', "
        """'{"workflow_id": "heartbeat"}' from generate_series(0, 11) n"""
    )


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize(
    "words",
    [
        ("scripts.rota", "watch"),
        ("worker", "start"),
        ("examples.workflow_service",),
        ("scripts.rota", "server"),
        ("scripts.rota", "serve"),
    ],
    ids=["watch", "worker", "service", "server", "api"],
)
def test_a_killed_process_comes_back_and_runs_go_on(up: Up, words: tuple[str, ...]) -> None:
    victim = up.child(*words)
    victim.kill()
    wait_until(lambda: up.child(*words).pid != victim.pid, 30, "its successor")
    before = up.runs()
    wait_until(lambda: up.runs() > before, 120, "another run")


@pytest.mark.usefixtures("busy")
def test_a_killed_database_comes_back_and_runs_go_on(up: Up) -> None:
    pid = int((up.home / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: up.sql("select 1") == "1", 75, "the database")
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


def test_a_database_of_a_newer_version_is_said_in_one_sentence(up: Up) -> None:
    up.sql("update alembic_version set version_num = '9999'")
    assert up.stop(signal.SIGTERM) < 10
    assert "newer" in refused(up)
    wait_until(lambda: up.left == [], 5, "nothing is left")


def test_a_taken_port_is_said_in_one_sentence(tmp_path: Path) -> None:
    prefect, service, api = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", prefect))
        taken.listen()
        done = refused(Up(tmp_path / "home", prefect, service, api))
    assert f"Port {prefect}" in done
    assert "--prefect-port" in done


def test_a_home_that_cannot_be_written_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(Up(tmp_path / "file" / "home", *free_ports()))


def refused(up: Up) -> str:
    done = subprocess.run(
        [*ROTA, "up"], env=up.environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr
