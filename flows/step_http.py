"""Steps that send a request, and put out what it is answered."""

import asyncio
import json
from typing import Annotated, Any, Literal

from prefect.blocks.system import Secret
from pydantic import BaseModel, ConfigDict, Field

from blocks.addresses import Allowed
from blocks.guarded_http import Answer, CallFailed, CallRefused, Guard, Request
from blocks.masking import Masking
from flows.blocks_by_name import BETWEEN
from flows.step_values import DEEPEST, SECRET, Unfit, storable_text

EXCERPT_CHARACTERS = 300

SecretName = dict[str, Annotated[str, Field(pattern="^[a-z0-9-]{1,200}$")]]


class HttpError(Exception):
    """The answer says that it was not done."""


class Http(BaseModel):
    """A request; `body` is a text, `json` a value."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: str
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: dict[
        Annotated[str, Field(pattern="^[A-Za-z0-9-]{1,100}$")],
        Annotated[str, Field(pattern=r"^[\t\x20-\x7e]*$")] | SecretName,
    ] = {}
    body: str | None = None
    json_: Any = Field(None, alias="json")
    expect_status: list[int] | None = None


async def http(asked: Http, tenant: str, key: str, within: float, allowed: Allowed) -> Any:
    """Send a request; return its status, headers and body.

    Args:
        asked: What to send.
        tenant: Whose secrets it may send.
        key: Goes into the header `Idempotency-Key`, unless the step has one.
        within: A limit for all of it, in seconds.
        allowed: What may be called beside the public addresses.

    Raises:
        Unfit: It must not or cannot be sent.
        HttpError: The status is none that was expected; without `expect_status`, none of 200 to
            299.
        blocks.guarded_http.CallFailed: There was no answer.
    """
    content, headers = _content(asked)
    headers["Idempotency-Key"] = key
    given = {name.lower() for name in asked.headers}
    headers = {name: value for name, value in headers.items() if name.lower() not in given}
    secrets = {
        name: await _secret(value, tenant)
        for name, value in asked.headers.items()
        if isinstance(value, dict)
    }
    headers |= {name: value for name, value in asked.headers.items() if isinstance(value, str)}
    hidden = frozenset(name.lower() for name in secrets)
    request = Request(asked.method, asked.url, {**headers, **secrets}, content, hidden)
    masking = Masking(secrets.values())  # some services repeat what they were sent
    try:
        answer = await Guard(allowed).call(request, within)
    except CallRefused as refused:
        raise Unfit(masking.text(str(refused))) from None
    except CallFailed as failed:
        raise CallFailed(masking.text(str(failed))) from None
    # Up to some 2 s for the largest of answers, and others run in this process.
    return await asyncio.to_thread(_output, answer, asked, masking)


def _content(asked: Http) -> tuple[bytes, dict[str, str]]:
    if "json_" in asked.model_fields_set:
        if asked.body is not None:
            raise Unfit("Its input has both body and json; leave one of both out")
        return json.dumps(asked.json_).encode(), {"Content-Type": "application/json"}
    if asked.body is not None:
        return asked.body.encode(), {"Content-Type": "text/plain; charset=utf-8"}
    return b"", {}


async def _secret(said: dict[str, str], tenant: str) -> str:
    """Return what a Secret block of the tenant's own holds; nobody can name another's."""
    if said.keys() != {SECRET}:
        raise Unfit("Its input has a header that is neither a text nor {$secret: name}")
    block = f"{tenant}{BETWEEN}{said[SECRET]}"
    try:
        loaded: Any = await Secret.aload(block)
    except ValueError:
        raise Unfit(
            f"There is no block `secret/{block}`; make it in Prefect's UI under Blocks (Secret)"
        ) from None
    found = loaded.get()
    if not isinstance(found, str) or not found.isascii() or not found.isprintable():
        raise Unfit(f"The block `secret/{block}` holds no text that a header can hold")
    return found


def _output(answer: Answer, asked: Http, masking: Masking) -> dict[str, Any]:
    text = answer.content.decode(errors="replace")
    good = (
        answer.status in asked.expect_status
        if asked.expect_status is not None
        else 200 <= answer.status < 300
    )
    if not good:
        said = masking.text(f"{asked.method} {answer.url} answered {answer.status}")
        excerpt = storable_text(masking.text(text))[:EXCERPT_CHARACTERS].strip()
        raise HttpError(f"{said}: {excerpt}" if excerpt else said)
    headers = masking.json(dict(answer.headers))
    return {"status": answer.status, "headers": headers, "body": _body(text, answer, masking)}


def _body(text: str, answer: Answer, masking: Masking) -> Any:
    media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        return storable_text(masking.text(text))
    try:
        return masking.json(_storable_texts(json.loads(text, parse_constant=_no_number)))
    except RecursionError:
        raise Unfit(f"The answer's JSON is nested more than {DEEPEST} deep") from None
    except (json.JSONDecodeError, _NoNumber):
        return storable_text(masking.text(text))
    except ValueError:
        raise Unfit("A number in the answer's JSON has more than 64 bits") from None


class _NoNumber(ValueError):
    """What stands for a number is none in JSON."""


def _no_number(said: str) -> Any:
    raise _NoNumber(said)


def _storable_texts(value: Any) -> Any:
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, list):
        return [_storable_texts(one) for one in value]
    if isinstance(value, dict):
        return {storable_text(key): _storable_texts(one) for key, one in value.items()}
    return value
