"""Keeps what the made-up calls of schemathesis are about, so that they reach further than a 404.

Its command reads this file in a process of its own (see `test_schemathesis.py`).
"""

import os
from itertools import count
from typing import Any

import requests
import schemathesis

ADMIN = {"Authorization": f"Bearer {os.environ['ROTA_TEST_ADMIN']}"}
ANY_TENANT = os.environ["ROTA_TEST_ANY_TENANT"] == "1"
RUN = os.environ["ROTA_TEST_RUN"]
PROJECT = os.environ["ROTA_TEST_PROJECT"]
REQUEST, INCIDENT = os.environ["ROTA_TEST_REQUEST"], os.environ["ROTA_TEST_INCIDENT"]

DOOMED = {"provider": "doomed", "servers": [{"provider_id": "doomed", "handle": "doomed"}]}
NAMES = ("nightly-sync", "nightly-export")
BULK = "/api/v1/tenants/{tenant}/definitions"
ONE = f"{BULK}/{{name}}"
HELLO = [{"name": "hello", "kind": "log", "input": {"text": "Hello"}}]
MADE = {
    "/api/v1/tenants/{tenant}/actions/{name}": {"steps": HELLO},
    "/api/v1/tenants/{tenant}/step-templates/{name}": {"kind": "log"},
}

_numbers = count()
_suspended = False


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Leads a call to where there is something, and away from what others need."""
    number = next(_numbers)
    _without_conflicts(case.query or {}, case.headers or {}, number)
    _to_what_is_there(case, number)
    _away_from_what_stays(case)
    _resumed(case.operation.path)


def _without_conflicts(query: dict[str, Any], headers: dict[str, Any], number: int) -> None:
    """Takes away what is refused together, or fits nothing, where it is an example."""
    numbered, keyed = ("page", "page_size"), ("limit", "after", "before")
    if query.keys() & {*numbered} and query.keys() & {*keyed}:
        for name in (numbered, keyed)[number % 2]:
            query.pop(name, None)
    for name in ("after", "before"):
        if query.get(name) == "WyJuaWdodGx5Il0" and number % 3:
            del query[name]
    if headers.get("If-Match") == '"0190a3c2-3"':
        del headers["If-Match"]
    if number % 3:
        headers.pop("If-None-Match", None)


def _to_what_is_there(case: Any, number: int) -> None:
    there = {"tenant": "acme", "name": "nightly-sync", "run_id": RUN}
    there |= {"project_id": PROJECT, "key": "position"}
    there |= {"handle": "vps-10482", "request_id": REQUEST, "incident_id": INCIDENT}
    there |= {"job": "export", "step": "hello"}
    there["letter_id"] = os.environ["ROTA_TEST_LETTER"]
    given = case.path_parameters or {}
    # A run of what has no deployment yet would wait for it.
    if number % 4 or case.operation.path.endswith("/run"):
        given |= {name: there[name] for name in given if name in there}
    if isinstance(case.body, dict):
        _fitting(case.body, number)
        if case.method == "POST" and case.body.get("name") in NAMES and number % 2:
            case.body["name"] = f"new-{number}"


def _fitting(body: dict[str, Any], number: int) -> None:
    """Leaves of the kinds of schedule one, no date that has passed, and what is required."""
    kinds = ("cron", "interval_seconds", "run_at", "after_seconds")
    if {*kinds} <= body.keys():
        for kind in {*kinds} - {kinds[number % len(kinds)]}:
            del body[kind]
    if body.get("duty") == "workflow_run" and body.get("parameters", {}) == {}:
        body["parameters"] = {"workflow_id": "sync"}
    if "interval_seconds" not in body:
        body.pop("anchor_at", None)
    if body.get("run_at") == "2026-03-01T08:00:00+01:00":
        body["run_at"] = "2026-12-31T08:00:00+01:00"
    if body.keys() <= {"value", "replaces"} and number % 3:
        body.pop("replaces", None)


def _away_from_what_stays(case: Any) -> None:
    method, path, given = case.method, case.operation.path, case.path_parameters or {}
    if method == "DELETE" and path == ONE and given.get("name") == "nightly-sync":
        given["name"] = "doomed"
        body = {"duty": "workflow_run", "parameters": {"workflow_id": "x"}}
        _admin("PUT", "/tenants/acme/definitions/doomed", body)
    if method == "DELETE" and path in MADE and given.get("name") == "nightly-sync":
        given["name"] = "doomed"
        there = path.removeprefix("/api/v1").format(tenant="acme", name="doomed")
        _admin("PUT", there, MADE[path])
    if method == "DELETE" and "handle" in given:
        given["handle"] = "doomed"
        _admin("PUT", "/tenants/acme/servers", DOOMED)
    if method == "DELETE" and "job" in given:
        body = {"name": f"doomed-{next(_numbers)}", "command": "true"}
        given["job"] = _admin("POST", "/tenants/acme/jobs", body).json()["id"]
    if method == "DELETE" and given == {"tenant": "globex"}:
        given["tenant"] = "acme"  # which has definitions
    if method == "PUT" and path == BULK and given.get("tenant") == "acme":
        if ANY_TENANT:
            given["tenant"] = "globex"  # where nothing is lost that is pruned
        elif case.query:
            case.query.pop("prune", None)


def _resumed(path: str) -> None:
    global _suspended
    if _suspended and not path.endswith("/tenants/{tenant}/resume"):
        _admin("POST", "/tenants/acme/resume")
    _suspended = path.endswith("/suspend")


def _admin(method: str, path: str, body: Any = None) -> requests.Response:
    url = f"{os.environ['ROTA_TEST_URL']}/api/v1{path}"
    answer = requests.request(method, url, json=body, headers=ADMIN, timeout=30)
    answer.raise_for_status()
    return answer
