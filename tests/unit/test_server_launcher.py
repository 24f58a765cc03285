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


TURNS = """
    import asyncio
    import sqlalchemy as sa
    from scripts.server import take_turns
    from prefect.server.database.configurations import AioSqliteConfiguration

    async def main():
        take_turns()
        config = AioSqliteConfiguration("sqlite+aiosqlite:///PLACE/some.db")
        engine = await config.engine()
        order = []

        async def write(number):
            async with await config.session(engine) as session:
                async with config.begin_transaction(session):
                    if number == 5:  # one that waits for another of its own making
                        async with await config.session(engine) as inner:
                            async with config.begin_transaction(inner):
                                await inner.execute(sa.text("select count(*) from t"))
                    await session.execute(sa.text("insert into t values (:n)"), {"n": number})
                    order.append(number)
                    await asyncio.sleep(0.01)

        async with engine.begin() as connection:
            await connection.execute(sa.text("create table t (n integer)"))
        await asyncio.wait_for(asyncio.gather(*map(write, range(40))), 20)
        print(order == list(range(40)))

    asyncio.run(main())
"""


def test_writes_to_sqlite_wait_for_one_another_in_order(tmp_path):
    assert launched(TURNS.replace("PLACE", str(tmp_path))) == "True"


def test_without_turns_sqlite_lets_some_wait_longer(tmp_path):
    unmended = TURNS.replace("PLACE", str(tmp_path)).replace("        take_turns()\n", "")
    assert launched(unmended) == "False"


GARBAGE = """
    import gc, sqlite3, threading, time
    from scripts.server import collect_apart

    collect_apart()
    connections = [
        sqlite3.connect("PLACE/some.db", timeout=2, check_same_thread=False) for _ in range(2)
    ]
    waiting, writing = connections
    waiting.execute("create table t (n integer)")
    waiting.commit()

    left = [waiting.execute("select 1")]
    left.append(left)
    writing.execute("begin immediate")
    asked = threading.Event()

    def wait_to_write():
        asked.set()
        waiting.execute("insert into t values (1)")

    writer = threading.Thread(target=wait_to_write)
    writer.start()
    asked.wait()
    time.sleep(0.1)
    began = time.monotonic()
    del left  # only the collector finds it now
    kept = [[] for _ in range(50_000)]
    time.sleep(0.2)
    print(time.monotonic() - began < 1)
    writing.commit()  # which only this thread can do, like an event loop
    writer.join()
"""


def test_garbage_that_waits_for_a_write_holds_nobody_up(tmp_path):
    assert launched(GARBAGE.replace("PLACE", str(tmp_path))) == "True"


def test_without_a_thread_of_its_own_such_garbage_holds_everybody_up(tmp_path):
    unmended = GARBAGE.replace("PLACE", str(tmp_path)).replace("    collect_apart()\n", "")
    # The writer gives up meanwhile, and says so on its standard error.
    assert launched(unmended) == "False"


def test_garbage_is_collected():
    assert (
        launched("""
        import gc, time, weakref
        from scripts.server import collect_apart

        class Thing:
            pass

        collect_apart()
        thing = Thing()
        thing.itself = thing
        seen = weakref.ref(thing)
        del thing
        kept = [[] for _ in range(50_000)]
        deadline = time.monotonic() + 10
        while seen() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        print(seen() is None, gc.isenabled())
        """)
        == "True False"
    )
