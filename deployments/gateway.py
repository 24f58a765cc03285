"""The only module that talks to Prefect's API.

Calls go through Prefect's own client, which knows its authentication, CSRF, TLS and retry
settings, but speak JSON: building models for ten thousand deployments takes longer than reading
them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

import httpx
import orjson
from prefect.client.orchestration import PrefectClient, get_client
from prefect.settings import get_current_settings

PAGE = 200
"""The most that Prefect answers in one page, unless its server is set otherwise."""


#   PrefectError
#   ├── PrefectUnavailable   no answer, or one that says nothing of the request: try again later
#   └── PrefectRefused       the request itself is at fault: trying again changes nothing
class PrefectError(Exception):
    """A call to Prefect's API did not do what it was to do."""


class PrefectUnavailable(PrefectError):
    """Prefect did not answer, or only that it cannot at the moment.

    Attributes:
        away: Whether no other call is likely to fare better.
    """

    def __init__(self, message: str, *, away: bool = True) -> None:
        super().__init__(message)
        self.away = away


class PrefectRefused(PrefectError):
    """Prefect understood the request and would not do it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"Prefect answered {status}: {detail}")
        self.status = status


class Gateway:
    """Prefect's API, as far as Rota needs it."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._flow_ids: dict[str, str] = {}
        self._flow_names: dict[str, str] = {}

    @classmethod
    @asynccontextmanager
    async def connect(cls) -> AsyncIterator[Self]:
        """Yield a gateway to the server that Prefect's settings name.

        Raises:
            PrefectUnavailable: They name none. (Prefect would start one of its own.)
        """
        if not get_current_settings().api.url:
            raise PrefectUnavailable(
                "PREFECT_API_URL is not set; set it to the address of the Prefect server, such as "
                "http://127.0.0.1:4200/api"
            )
        async with get_client() as client:
            yield cls(client)

    @property
    def address(self) -> str:
        """The address of the API."""
        return str(self._client.api_url)

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            response = await self._client.request(
                method,  # type: ignore[arg-type]
                path,  # type: ignore[arg-type]
                content=None if body is None else orjson.dumps(body),
                headers={"Content-Type": "application/json"},
            )
        except httpx.HTTPStatusError as error:
            raise _answered(error.response) from error
        except httpx.InvalidURL as error:
            raise PrefectRefused(400, f"{path!r} is no address") from error
        except ValueError as error:  # of the CSRF token, which the client asks for by itself
            raise PrefectUnavailable(
                f"{self.address} answers what is no JSON; is it Prefect's API?"
            ) from error
        except httpx.HTTPError as error:
            raise PrefectUnavailable(
                f"Prefect at {self.address} does not answer "
                f"({type(error).__name__}{f': {error}' if str(error) else ''})"
            ) from error
        if response.status_code >= 300:
            raise _answered(response)
        try:
            return orjson.loads(response.content) if response.content else None
        except orjson.JSONDecodeError as error:
            raise PrefectUnavailable(
                f"{self.address} answers what is no JSON; is it Prefect's API?"
            ) from error

    async def _pages(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[list[Any]]:
        offset = 0
        while page := await self._call("POST", path, {**body, "limit": PAGE, "offset": offset}):
            yield page
            if len(page) < PAGE:
                return
            offset += len(page)

    # -- deployments

    async def owned(self, tag: str) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the deployments that carry `tag`, a page at a time, ordered by name."""
        tagged = {"deployments": {"tags": {"all_": [tag]}}, "sort": "NAME_ASC"}
        async for page in self._pages("/deployments/filter", tagged):
            yield page

    async def named(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Return the deployments of these names, whoever owns them."""
        found: list[dict[str, Any]] = []
        for some in _batches(sorted(set(names)), PAGE // 2):
            body = {"deployments": {"name": {"any_": some}}, "sort": "NAME_ASC"}
            async for page in self._pages("/deployments/filter", body):
                found += page
        return found

    async def deployment(self, deployment_id: str) -> dict[str, Any]:
        """Return one deployment."""
        found: dict[str, Any] = await self._call("GET", f"/deployments/{deployment_id}")
        return found

    async def create(self, body: Mapping[str, Any]) -> str:
        """Create a deployment; return its id. One of that flow and name would be replaced."""
        return str((await self._call("POST", "/deployments/", body))["id"])

    async def update(self, deployment_id: str, body: Mapping[str, Any]) -> None:
        """Change only the fields that `body` names. Prefect drops the future runs."""
        await self._call("PATCH", f"/deployments/{deployment_id}", body)

    async def delete(self, deployment_id: str) -> None:
        """Delete a deployment and its scheduled runs; one that is gone is gone."""
        try:
            await self._call("DELETE", f"/deployments/{deployment_id}")
        except PrefectRefused as refused:
            if refused.status != 404:
                raise

    async def delete_schedule(self, deployment_id: str, schedule_id: str) -> None:
        """Delete one of a deployment's schedules and the runs that it made."""
        try:
            await self._call("DELETE", f"/deployments/{deployment_id}/schedules/{schedule_id}")
        except PrefectRefused as refused:
            if refused.status != 404:
                raise

    async def make_runs(self, deployment_id: str, since: datetime) -> None:
        """Make the runs that fall due from `since` on; those that are there stay as they are."""
        body = {"start_time": since.isoformat()}
        await self._call("POST", f"/deployments/{deployment_id}/schedule", body)

    # -- flows, pools, queues

    def forget_flow(self, name: str) -> None:
        """Ask for the flow's id anew: somebody may have deleted the flow."""
        self._flow_names.pop(self._flow_ids.pop(name, ""), None)

    async def flow_id(self, name: str) -> str:
        """Return the id of the flow `name`, which is made if it is not there."""
        if name not in self._flow_ids:
            self._flow_ids[name] = str((await self._call("POST", "/flows/", {"name": name}))["id"])
            self._flow_names[self._flow_ids[name]] = name
        return self._flow_ids[name]

    async def flow_names(self, ids: Collection[str]) -> Mapping[str, str]:
        """Return the names of flows by their ids."""
        missing = sorted(set(ids) - self._flow_names.keys())
        for some in _batches(missing, PAGE):
            body = {"flows": {"id": {"any_": some}}, "limit": PAGE}
            for flow in await self._call("POST", "/flows/filter", body):
                self._flow_names[str(flow["id"])] = flow["name"]
        return self._flow_names

    async def work_pools(self) -> dict[str, dict[str, Any]]:
        """Return Prefect's work pools by name."""
        pools: dict[str, dict[str, Any]] = {}
        async for page in self._pages("/work_pools/filter", {}):
            pools |= {pool["name"]: pool for pool in page}
        return pools

    async def create_work_pool(self, name: str, type_: str, template: Mapping[str, Any]) -> None:
        """Make a work pool, unless there is one of that name."""
        body = {"name": name, "type": type_, "base_job_template": template}
        try:
            await self._call("POST", "/work_pools/", body)
        except PrefectRefused as refused:
            if refused.status != 409:
                raise

    async def workers(self, pool: str) -> list[dict[str, Any]]:
        """Return the workers that have polled `pool`, with their status."""
        found: list[dict[str, Any]] = []
        async for page in self._pages(f"/work_pools/{_quoted(pool)}/workers/filter", {}):
            found += page
        return found

    async def queues(self, pool: str) -> dict[str, bool]:
        """Return the work queues of `pool`, and whether each is paused."""
        found: dict[str, bool] = {}
        async for page in self._pages(f"/work_pools/{_quoted(pool)}/queues/filter", {}):
            found |= {queue["name"]: bool(queue["is_paused"]) for queue in page}
        return found

    async def queues_named(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the work queues of these names, of whichever pool."""
        found: list[dict[str, Any]] = []
        for some in _batches(names, PAGE // 2):
            body = {"work_queues": {"name": {"any_": list(some)}}}
            async for page in self._pages("/work_queues/filter", body):
                found += page
        return found

    async def change_queue(self, pool: str, queue: str, body: Mapping[str, Any]) -> None:
        """Change only what `body` names of a work queue."""
        path = f"/work_pools/{_quoted(pool)}/queues/{_quoted(queue)}"
        await self._call("PATCH", path, body)

    async def pause_queue(self, pool: str, queue: str, paused: bool) -> None:
        """Stop a tenant's queue, or let it go on."""
        await self.change_queue(pool, queue, {"is_paused": paused})

    # -- runs

    async def ended_since(self, tag: str, since: datetime) -> list[dict[str, Any]]:
        """Return the runs tagged `tag` that ended at `since` or later, the latest first."""
        body = {
            "flow_runs": {"tags": {"all_": [tag]}, "end_time": {"after_": since.isoformat()}},
            "sort": "END_TIME_DESC",
        }
        return [run async for page in self._pages("/flow_runs/filter", body) for run in page]

    async def runs(
        self, deployment_id: str, limit: int, states: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Return a deployment's runs, the latest occurrence first."""
        chosen: dict[str, Any] = {"deployment_id": {"any_": [deployment_id]}}
        if states:
            chosen["state"] = {"type": {"any_": list(states)}}
        body = {
            "flow_runs": chosen,
            "limit": min(limit, PAGE),
            "sort": "EXPECTED_START_TIME_DESC",
        }
        found: list[dict[str, Any]] = await self._call("POST", "/flow_runs/filter", body)
        return found

    async def run(self, run_id: str) -> dict[str, Any]:
        """Return one run."""
        found: dict[str, Any] = await self._call("GET", f"/flow_runs/{run_id}")
        return found

    async def runs_where(
        self, chosen: Mapping[str, Any], sort: str, limit: int, offset: int = 0
    ) -> list[dict[str, Any]]:
        """Return runs by Prefect's filter of flow runs; at most `PAGE` of them."""
        body = {"flow_runs": chosen, "sort": sort, "limit": min(limit, PAGE), "offset": offset}
        found: list[dict[str, Any]] = await self._call("POST", "/flow_runs/filter", body)
        return found

    async def under_way(self, deployment_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the runs of these deployments that have begun, and have not ended."""
        found: list[dict[str, Any]] = []
        for some in _batches(deployment_ids, PAGE):
            chosen = {
                "deployment_id": {"any_": list(some)},
                "start_time": {"is_null_": False},
                "end_time": {"is_null_": True},
            }
            body = {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_DESC"}
            async for page in self._pages("/flow_runs/filter", body):
                found += page
        return found

    async def count_runs(self, chosen: Mapping[str, Any]) -> int:
        """Count runs by Prefect's filter of flow runs."""
        return int(await self._call("POST", "/flow_runs/count", {"flow_runs": chosen}))

    async def create_run(
        self,
        deployment_id: str,
        parameters: Mapping[str, Any],
        idempotency_key: str | None = None,
        at: datetime | None = None,
        tags: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> dict[str, Any]:
        """Make a run that is due at an instant, or now.

        Args:
            deployment_id: Its deployment.
            parameters: They count more than the deployment's own.
            idempotency_key: Makes a second call with the same key return the first one's run.
            at: When it is due; None for now.
            tags: To be added to the deployment's.
            labels: Likewise.
            name: What it is called; None for a name of Prefect's making.
        """
        body: dict[str, Any] = {"parameters": parameters, "tags": list(tags)}
        if name:
            body["name"] = name
        if labels:
            body["labels"] = dict(labels)
        if idempotency_key:
            body["idempotency_key"] = idempotency_key
        if at is not None:
            due = {"scheduled_time": at.isoformat()}
            body["state"] = {"type": "SCHEDULED", "state_details": due}
        created: dict[str, Any] = await self._call(
            "POST", f"/deployments/{deployment_id}/create_flow_run", body
        )
        return created

    async def cancel_run(self, run_id: str) -> None:
        """Have a run cancelled: at once, or by the worker that it is on."""
        body = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        try:
            await self._call("POST", f"/flow_runs/{run_id}/set_state", body)
        except PrefectRefused as refused:
            if refused.status != 404:  # gone is cancelled
                raise

    async def scheduled(
        self, deployment_ids: Sequence[str], since: datetime
    ) -> list[dict[str, Any]]:
        """Return the runs of these deployments that wait to start, due after `since`."""
        found: list[dict[str, Any]] = []
        for some in _batches(sorted(deployment_ids), PAGE // 2):
            body = {
                "flow_runs": {
                    "deployment_id": {"any_": some},
                    "state": {"type": {"any_": ["SCHEDULED"]}},
                    "expected_start_time": {"after_": since.isoformat()},
                }
            }
            async for page in self._pages("/flow_runs/filter", body):
                found += page
        return found

    async def delete_scheduled(self, run_ids: Sequence[str]) -> None:
        """Delete those of the runs that still wait to start."""
        for some in _batches(run_ids, 50):
            # By their state as well: a worker may have claimed one meanwhile. Never by nothing:
            # an empty filter deletes any fifty runs.
            body = {"id": {"any_": some}, "state": {"type": {"any_": ["SCHEDULED"]}}}
            await self._call("POST", "/flow_runs/bulk_delete", {"flow_runs": body})

    async def version(self) -> str:
        """Return the version of Prefect's server."""
        return str(await self._call("GET", "/admin/version"))

    async def server_settings(self) -> dict[str, Any]:
        """Return the settings that Prefect's server runs with."""
        found: dict[str, Any] = await self._call("GET", "/admin/settings")
        return found


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _answered(response: httpx.Response) -> PrefectError:
    detail = response.text[:500]
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        detail = str(orjson.loads(response.content)["detail"])[:500]
    if response.status_code >= 500 or response.status_code in (408, 429):
        away = response.status_code in (408, 429, 502, 503, 504)
        return PrefectUnavailable(f"Prefect answered {response.status_code}: {detail}", away=away)
    return PrefectRefused(response.status_code, detail)


def _batches(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
