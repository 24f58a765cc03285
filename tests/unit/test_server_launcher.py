"""What the launcher changes for Prefect's server must not change what the server accepts."""

import subprocess
import sys
import textwrap

import pytest


def launched(code: str) -> str:
    """Runs code in a process of its own, after the launcher has done its part there."""
    prepared = "from scripts.server import prepare\nprepare()\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", prepared], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_time_zones_are_listed_once():
    assert (
        launched("import zoneinfo; a = zoneinfo.available_timezones; print(a() is a())") == "True"
    )


@pytest.mark.parametrize("schema", ['{"type": "nonsense"}', '{"minimum": "low"}'])
def test_a_schema_that_is_none_is_refused_every_time(schema):
    assert (
        launched(f"""
        from jsonschema import Draft202012Validator, exceptions
        refused = 0
        for _ in range(3):
            try:
                Draft202012Validator.check_schema({schema})
            except exceptions.SchemaError:
                refused += 1
        print(refused)
        """)
        == "3"
    )


def test_a_schema_that_changes_in_place_is_checked_anew():
    assert (
        launched("""
        from jsonschema import Draft202012Validator, exceptions
        schema = {"type": "string"}
        Draft202012Validator.check_schema(schema)
        schema["type"] = "nonsense"
        try:
            Draft202012Validator.check_schema(schema)
        except exceptions.SchemaError:
            print("refused")
        """)
        == "refused"
    )


def test_what_json_cannot_say_is_checked_as_before():
    assert (
        launched("""
        from jsonschema import Draft202012Validator
        Draft202012Validator.check_schema({"const": {1, 2}})
        print("checked")
        """)
        == "checked"
    )


def test_prefect_validates_parameters_as_before():
    assert (
        launched("""
        from prefect.utilities.schema_tools import validate
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        print([bool(validate(one, schema)) for one in ({"n": 1}, {"n": "x"}, {})])
        """)
        == "[False, True, True]"
    )
