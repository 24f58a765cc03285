"""Steps that run a command of the shell on the worker."""

import os

from pydantic import BaseModel, ConfigDict, Field

from flows.commands import CannotBegin, Log, run
from flows.run_job import ALLOWED, TRUE
from flows.step_values import Unfit


class CommandFailed(Exception):
    """The command has ended with another exit code than 0."""


class Command(BaseModel):
    """A command; what comes from elsewhere goes into its environment."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    command: str = Field(min_length=1)
    environment: dict[str, str] = {}
    directory: str | None = None


async def command(asked: Command, tenant: str, key: str) -> dict[str, object]:
    """Run a command; return its exit code, which is 0, and the last of its output.

    It ends with the step: at its time limit, or when the run is cancelled.

    Args:
        asked: What to run.
        tenant: Whose step it is.
        key: Tells the command that two runs are of one step.

    Raises:
        Unfit: This worker runs no commands, or cannot begin this one.
        CommandFailed: It ended with another exit code than 0.
    """
    if os.environ.get(ALLOWED, "").lower() not in TRUE:
        raise Unfit(
            f"This worker does not run commands; who starts it allows it with {ALLOWED}=1 in its "
            "environment"
        )
    own = {"ROTA_TENANT": tenant, "ROTA_IDEMPOTENCY_KEY": key}
    try:
        ended = await run(
            asked.command,
            environment={**asked.environment, **own},
            directory=asked.directory,
            on_line=Log().line,
        )
    except CannotBegin as error:
        raise Unfit(str(error)) from None
    if ended.exit_code != 0:
        last = ended.tail.rstrip().rpartition("\n")[2][:300]
        raise CommandFailed(f"exit code {ended.exit_code}{f': {last}' if last else ''}")
    return {"exit_code": ended.exit_code, "output": ended.tail}
