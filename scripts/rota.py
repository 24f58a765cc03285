"""The `rota` command. What a command needs is imported when it is called, so that help is quick."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scripts import letters

if TYPE_CHECKING:
    from store.settings import Settings

app = typer.Typer(
    name="rota",
    help="Periodic duties, defined in a database, run by Prefect.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
db = typer.Typer(help="The definitions database itself.", no_args_is_help=True)
app.add_typer(db, name="db")
token = typer.Typer(help="Who may call the HTTP API.", no_args_is_help=True)
app.add_typer(token, name="token")
app.add_typer(letters.app, name="letters")

Reference = Annotated[str, typer.Argument(metavar="TENANT/NAME", help="The definition.")]
TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
PolicyName = Annotated[
    Literal["sync", "upsert-only", "create-only"],
    typer.Option(help="Which changes may be carried out."),
]


def _prepare() -> Settings:
    # Before anything of Prefect's is imported.
    from scripts import session

    return session.prepare()


def _run(command: Coroutine[Any, Any, int]) -> None:
    raise typer.Exit(asyncio.run(command))


# -- processes


@app.command()
def up(
    home: Annotated[Path | None, typer.Option(help="Where its state lives; else .rota.")] = None,
    prefect_port: Annotated[int | None, typer.Option(help="Port of Prefect's server.")] = None,
    service_port: Annotated[int | None, typer.Option(help="Port of the example service.")] = None,
    api_port: Annotated[int | None, typer.Option(help="Port of the HTTP API.")] = None,
) -> None:
    """Run everything on this machine, in the foreground, until Ctrl-C."""
    from scripts import start

    raise typer.Exit(start.up(home, prefect_port, service_port, api_port))


@app.command()
def server(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.", min=1, max=65535)] = 4200,
) -> None:
    """Run Prefect's server alone, with its settings from prefect.toml."""
    from scripts.server import serve

    serve(host, port)


@app.command()
def watch(policy: PolicyName = "sync") -> None:
    """Follow the definitions and keep Prefect in step, until SIGTERM or Ctrl-C."""
    settings = _prepare()
    from scripts import watching

    _run(watching.watch(settings, policy))


@app.command()
def worker(
    pool: Annotated[str | None, typer.Option(help="Its work pool; else ROTA_WORK_POOL.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name; else that of the host.")] = None,
    queue: Annotated[list[str] | None, typer.Option(help="Only this work queue.")] = None,
    limit: Annotated[int | None, typer.Option(help="Runs at once.", min=1)] = None,
    grace: Annotated[
        float | None,
        typer.Option(help="Seconds for runs after SIGTERM; else 30.", min=0),
    ] = None,
    with_healthcheck: Annotated[
        bool, typer.Option("--with-healthcheck", help="Answer at /health, port 8080.")
    ] = False,
) -> None:
    """Run flows in this process, until SIGTERM or Ctrl-C."""
    settings = _prepare()
    from scripts.worker import work

    _run(work(pool or settings.work_pool, name, queue or [], limit, grace, with_healthcheck))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen; else 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="On which port; else 4280.")] = None,
) -> None:
    """Answer the HTTP API, until SIGTERM or Ctrl-C."""
    settings = _prepare()
    given = {"api_host": host, "api_port": port}
    given = {name: value for name, value in given.items() if value is not None}
    from scripts import serving

    raise typer.Exit(serving.serve(settings.model_copy(update=given)))


@app.command()
def events() -> None:
    """Suspend and resume tenants as a RabbitMQ exchange says, until SIGTERM or Ctrl-C."""
    settings = _prepare()
    from scripts import events as consuming

    _run(consuming.consume(settings))


# -- definitions and Prefect


@app.command()
def plan(json: Json = False) -> None:
    """Say what `apply` would do. Exits with 2 if that is anything, with 1 after an error."""
    settings = _prepare()
    from scripts import planning

    _run(planning.plan(settings, json))


@app.command()
def apply(policy: PolicyName = "sync", json: Json = False) -> None:
    """Compare all definitions with all of their deployments, and mend what differs."""
    settings = _prepare()
    from scripts import planning

    _run(planning.apply(settings, policy, json))


# -- the roster


@app.command()
def load(
    file: Annotated[
        Path,
        typer.Argument(help="A roster or Semaphore's tasks, YAML or JSON; - is standard input."),
    ],
    tenant: Annotated[
        str | None, typer.Option(help="Whose it is, where the file does not say.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what the file's tenants have beside it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
    json: Json = False,
) -> None:
    """Write a roster from a file, all of it or nothing."""
    settings = _prepare()
    from scripts import roster_file

    _run(roster_file.load_command(settings, file, tenant, prune, dry_run, json))


@app.command()
def dump(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
) -> None:
    """Print the roster as YAML, which `load` takes back."""
    settings = _prepare()
    from scripts import roster_file

    _run(roster_file.dump_command(settings, tenant))


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    json: Json = False,
) -> None:
    """Print the definitions, and how they are doing."""
    settings = _prepare()
    from scripts import definitions

    _run(definitions.list_command(settings, tenant, json))


@app.command()
def show(reference: Reference, json: Json = False) -> None:
    """Print everything about one definition, and when it is due next."""
    settings = _prepare()
    from scripts import definitions

    _run(definitions.show_command(settings, reference, json))


@app.command()
def pause(
    reference: Reference,
    until: Annotated[
        str | None, typer.Option(help="An instant, such as 2026-03-01T08:00:00Z; else for good.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="Why; Prefect's UI shows it.")] = None,
) -> None:
    """Pause a definition, until an instant or until `resume`."""
    settings = _prepare()
    from scripts import definitions

    _run(definitions.pause(settings, reference, until, note))


@app.command()
def resume(reference: Reference) -> None:
    """Let a paused definition run again."""
    settings = _prepare()
    from scripts import definitions

    _run(definitions.resume(settings, reference))


@app.command()
def tenants(json: Json = False) -> None:
    """Print the tenants."""
    settings = _prepare()
    from scripts import definitions

    _run(definitions.tenants_command(settings, json))


@app.command()
def suspend(
    tenant: TenantName,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever looks.")] = None,
) -> None:
    """Stop everything of a tenant, until `unsuspend`."""
    settings = _prepare()
    from scripts import definitions

    _run(definitions.suspend(settings, tenant, reason))


@app.command()
def unsuspend(tenant: TenantName) -> None:
    """Let a suspended tenant's definitions run again."""
    settings = _prepare()
    from scripts import definitions

    _run(definitions.unsuspend(settings, tenant))


# -- runs


@app.command()
def run(
    reference: Reference,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter; JSON or text.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end; exit with 0 only if it completes.")
    ] = False,
    json: Json = False,
) -> None:
    """Start a run of a definition now, paused or not."""
    settings = _prepare()
    from scripts import runs

    _run(runs.run(settings, reference, param or [], wait, json))


@app.command()
def history(
    reference: Reference,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=100)] = 20,
    json: Json = False,
) -> None:
    """Print the runs of a definition, the latest first."""
    settings = _prepare()
    from scripts import runs

    _run(runs.history(settings, reference, limit, json))


@app.command()
def preview(
    cron: Annotated[str, typer.Argument(metavar="CRON", help="Five fields, in quotes.")],
    timezone: Annotated[str, typer.Option(help="Whose wall clock counts.")] = "UTC",
    count: Annotated[int, typer.Option(help="How many.", min=1, max=1000)] = 10,
    since: Annotated[str | None, typer.Option(help="An instant; else now.")] = None,
    day_and: Annotated[
        bool, typer.Option("--day-and", help="Day of month and day of week must both match.")
    ] = False,
    json: Json = False,
) -> None:
    """Print when a cron expression is due, and what changes of clocks do to it."""
    from scripts import preview as previewing

    raise typer.Exit(previewing.preview(cron, timezone, count, since, day_and, json))


# -- who may call the API


@token.command("create")
def token_create(
    role: Annotated[str, typer.Option(help="admin, editor, viewer or worker.")],
    tenant: Annotated[str | None, typer.Option(help="Good for this tenant only.")] = None,
    name: Annotated[str | None, typer.Option(help="How the audit calls its holder.")] = None,
    days: Annotated[int | None, typer.Option(help="Days it is good for; else ever.", min=1)] = None,
    json: Json = False,
) -> None:
    """Make a token, and show it this once."""
    settings = _prepare()
    from scripts import tokens

    _run(tokens.create(settings, role, tenant, name, days, json))


@token.command("list")
def token_list(json: Json = False) -> None:
    """List the tokens, without what lets one call."""
    settings = _prepare()
    from scripts import tokens

    _run(tokens.list_command(settings, json))


@token.command("revoke")
def token_revoke(token_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")]) -> None:
    """Delete a token, at once."""
    settings = _prepare()
    from scripts import tokens

    _run(tokens.revoke(settings, token_id))


# -- the database, and whether all is well


@db.command()
def upgrade() -> None:
    """Bring the tables to this version; make them at first."""
    settings = _prepare()
    from scripts import db as commands

    _run(commands.upgrade(settings))


@db.command()
def url(
    show_password: Annotated[bool, typer.Option("--show-password", help="Do not mask it.")] = False,
) -> None:
    """Print the database's address, as psql takes it."""
    settings = _prepare()
    from scripts import db as commands

    _run(commands.url(settings, show_password))


@db.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def shell(context: typer.Context) -> None:
    """Open psql on the database; arguments go to psql: rota db shell -c "select 1"."""
    settings = _prepare()
    from scripts import db as commands

    _run(commands.shell(settings, context.args))


@app.command()
def doctor(json: Json = False) -> None:
    """Look whether all is well, and say of what is not what to do."""
    settings = _prepare()
    from scripts import doctor as examining

    _run(examining.doctor(settings, json))


def main() -> None:
    """Run the command line; an error that is to be expected is one sentence."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - closed by whoever started us
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        app()
    except BrokenPipeError:  # `rota list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from scripts import errors

        said = errors.sentence(error)
        if said is None:
            raise
        print(said, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
