"""What the OpenAPI document says: all of it, with units and examples, and every error."""

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest

from api.limits import Limits
from api.problems import MEDIA_TYPE

# No token is asked for there, and nothing is sent.
OPEN = {"/api/v1/healthz", "/api/v1/readyz", "/api/v1/version"}

# What each route can answer where it does not do what it is asked.
ALWAYS = {"401", "403", "413", "422", "429", "503", "504"}


@pytest.fixture
def document(api: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = api.contract.document
    return found


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"{method.upper()} {path}", operation


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """Returns the types that a schema takes; one that says nothing takes any."""
    inner = [one for key in ("anyOf", "oneOf", "allOf") for one in schema.get(key, ())]
    if inner:
        return set().union(*map(_kinds, inner))
    if "$ref" in schema:
        return {"object"}
    if "type" in schema:
        return {schema["type"]}
    return {"string"} if "enum" in schema or "const" in schema else {"any"}


def _is_scalar(schema: Mapping[str, Any]) -> bool:
    return bool(_kinds(schema) & {"string", "integer", "number", "boolean"})


def _properties(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    schemas = {**document["components"]["schemas"], **_bodies(document)}
    for name, schema in schemas.items():
        for field, described in schema.get("properties", {}).items():
            yield f"{name}.{field}", described


def _bodies(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the schemas of bodies that stand in the routes themselves."""
    return {
        f"{where} ({media})": content["schema"]
        for where, operation in _operations(document)
        for media, content in operation.get("requestBody", {}).get("content", {}).items()
        if "$ref" not in content["schema"]
    }


def _parameters(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for where, operation in _operations(document):
        for parameter in operation.get("parameters", ()):
            yield f"{where}: {parameter['name']}", parameter


def _with_examples(
    document: Mapping[str, Any],
) -> Iterator[tuple[str, Mapping[str, Any], list[Any]]]:
    for where, schema in _properties(document):
        yield where, schema, schema.get("examples", [])
    for where, parameter in _parameters(document):
        schema = parameter["schema"]
        given = [one["value"] for one in parameter.get("examples", {}).values()]
        yield where, schema, [*given, *schema.get("examples", [])]


def test_the_document_is_of_openapi_3_1_and_names_the_version(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "Rota"


def test_every_route_says_what_it_does(document: Any) -> None:
    assert [where for where, one in _operations(document) if not one.get("description")] == []


def test_every_field_of_every_schema_is_described(document: Any) -> None:
    assert [where for where, one in _properties(document) if not one.get("description")] == []


def test_every_parameter_is_described(document: Any) -> None:
    missing = [
        where
        for where, one in _parameters(document)
        if not (one.get("description") or one["schema"].get("description"))
    ]
    assert missing == []


def test_every_scalar_has_an_example(document: Any) -> None:
    missing = [
        where
        for where, schema, examples in _with_examples(document)
        if _is_scalar(schema) and not examples
    ]
    assert missing == []


def test_every_example_fits_its_schema(document: Any) -> None:
    for where, schema, examples in _with_examples(document):
        whole = {**schema, "components": document["components"]}
        validator = jsonschema.Draft202012Validator(
            whole, format_checker=jsonschema.FormatChecker()
        )
        for example in examples:
            assert [one.message for one in validator.iter_errors(example)] == [], where


def test_every_instant_is_a_date_and_time(document: Any) -> None:
    for where, schema in _properties(document):
        if where.endswith(("_at", ".at", ".until", ".since", ".started", ".finished", ".due")):
            formats = {one.get("format") for one in schema.get("anyOf", [schema])} - {None}
            assert formats == {"date-time"}, where


def test_every_route_declares_its_errors_as_problems(document: Any) -> None:
    for where, operation in _operations(document):
        if where.partition(" ")[2] in OPEN:
            continue
        responses = operation["responses"]
        assert responses.keys() >= ALWAYS, where
        for status, response in responses.items():
            if status >= "400":
                assert list(response["content"]) == [MEDIA_TYPE], f"{where}: {status}"
                schema = response["content"][MEDIA_TYPE]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, f"{where}: {status}"


def test_every_route_of_a_tenant_declares_that_it_may_not_be_there(document: Any) -> None:
    for where, operation in _operations(document):
        assert ("{tenant}" in where) == ("404" in operation["responses"]), where


def test_whatever_takes_if_match_declares_412(document: Any) -> None:
    for where, operation in _operations(document):
        names = {one["name"] for one in operation.get("parameters", ())}
        assert bool(names & {"If-Match", "If-None-Match"}) == ("412" in operation["responses"]), (
            where
        )


def test_every_answer_that_is_good_says_what_it_holds(document: Any) -> None:
    for where, operation in _operations(document):
        for status, response in operation["responses"].items():
            if status.startswith("2") and status != "204":
                schema = response["content"]["application/json"]["schema"]
                assert "$ref" in schema, where


def test_only_the_health_of_the_api_is_told_without_a_token(document: Any) -> None:
    for where, operation in _operations(document):
        assert ("security" in operation) == (where.partition(" ")[2] not in OPEN), where


def test_no_schema_is_there_that_nothing_names(document: Any) -> None:
    text = str(document)
    for name in document["components"]["schemas"]:
        assert f"#/components/schemas/{name}'" in text, name


def test_no_model_s_own_name_shows_how_it_is_built(document: Any) -> None:
    assert [name for name in document["components"]["schemas"] if not name.isalnum()] == []


async def test_the_document_is_to_be_had_without_a_token(api: Any) -> None:
    found = await api.get("/openapi.json", None)
    assert found.status_code == 200
    assert found.json() == api.contract.document


def test_every_request_goes_through_the_limits(api: Any) -> None:
    assert Limits in [one.cls for one in api.app.user_middleware]
