"""Definitions become specs, or problems that say what to do; no I/O, and no clock."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from deployments import owned_blocks
from deployments.inputs import InvalidInput, declared, filled
from deployments.schedule import (
    Interval,
    InvalidSchedule,
    Once,
    Schedule,
    build,
    whole_second_from,
)
from deployments.spec import (
    ALLOW_COMMANDS,
    POLICIES,
    RUN_JOB,
    DeploymentSpec,
    environment,
    jobs_queue,
    owner_tag,
    schedule_of,
    unfit_for_jobs,
)

if TYPE_CHECKING:
    from deployments.duties import Duty
    from store.models import Definition

OVERLAP = {"allow": None, "skip": "CANCEL_NEW", "queue": "ENQUEUE"}

NEVER = datetime(9000, 1, 1, tzinfo=UTC)
"""What lies beyond is a pause for ever; the database takes no instant of it."""

LEAD = timedelta(minutes=1)
"""How long before `starts_at` a deployment resumes, so that its first run is made in time."""

TICK = timedelta.resolution

EARLIEST = datetime(10, 1, 1, tzinfo=UTC)
LATEST = datetime(9990, 1, 1, tzinfo=UTC)
"""PostgreSQL's infinities come as Python's first and last instants, near which nothing counts."""


class Problem(ValueError):
    """A definition cannot become a deployment; the message names field, value and remedy."""


@dataclass(frozen=True)
class Rules:
    """What definitions are measured against.

    Attributes:
        instance: Which database they are from.
        duties: The duties that there are.
        broken: Those that do not load, with the reason.
        work_pools: The pools that Prefect has; None where nobody has asked.
        work_pool: The pool of definitions that name none.
        suspended: The slugs of suspended tenants.
    """

    instance: str
    duties: Mapping[str, Duty]
    broken: Mapping[str, str] = field(default_factory=dict)
    work_pools: Collection[str] | None = None
    work_pool: str = "rota"
    suspended: Collection[str] = ()


@dataclass(frozen=True)
class Wanted:
    """One definition that can be carried out.

    Attributes:
        spec: Its deployment.
        schedule: When it is due; None on demand only.
        changes_at: When its deployment has to be paused or resumed next; None if never.
        next_run_at: Its next occurrence, if it has one.
    """

    spec: DeploymentSpec
    schedule: Schedule | None
    changes_at: datetime | None
    next_run_at: datetime | None


@dataclass(frozen=True)
class Desired:
    """What a set of definitions asks for; both parts are keyed by the definition's id."""

    wanted: Mapping[str, Wanted]
    problems: Mapping[str, str]

    @property
    def specs(self) -> list[DeploymentSpec]:
        """The deployments that can be made."""
        return [one.spec for one in self.wanted.values()]


def desired(definitions: Iterable[Definition], rules: Rules, at: datetime) -> Desired:
    """Return what `definitions` ask for at the instant `at`; a bad one hinders no other."""
    wanted: dict[str, Wanted] = {}
    problems: dict[str, str] = {}
    for definition in definitions:
        try:
            wanted[str(definition.id)] = want(definition, rules, at)
        except Problem as problem:
            problems[str(definition.id)] = str(problem)
        except Exception as error:  # whatever a row may hold, it is no reason to stop the others
            problems[str(definition.id)] = (
                f"Rota fails on this row with {type(error).__name__}: {_short(str(error))}; change "
                "what was written last"
            )
    return Desired(wanted, problems)


def want(definition: Definition, rules: Rules, at: datetime) -> Wanted:
    """Return what one definition asks for at the instant `at`.

    Raises:
        Problem: It asks for what cannot be.
    """
    duty = _duty(definition.duty, rules)
    try:
        schedule = build_for(definition)
    except InvalidSchedule as invalid:
        raise Problem(str(invalid)) from invalid
    _check_once(definition, schedule)
    if duty.name == RUN_JOB and (unfit := unfit_for_jobs(definition)):
        raise Problem(unfit)
    parameters = _parameters(_with_inputs(definition, duty), duty)
    for foreign in owned_blocks.in_definition(definition, parameters):
        raise Problem(foreign)
    pool = _pool(definition.work_pool or rules.work_pool, rules)
    spec = DeploymentSpec(
        definition_id=str(definition.id),
        flow_name=duty.flow_name,
        name=f"{definition.tenant}.{definition.name}",
        description=_description(definition, duty),
        entrypoint=duty.entrypoint,
        parameters=parameters,
        parameter_schema=duty.schema,
        schedules=(schedule_of(schedule.to_prefect()),) if schedule else (),
        paused=not _active(definition, schedule, rules, at),
        overlap=OVERLAP[definition.overlap],
        tags=(owner_tag(rules.instance), *_tags(definition)),
        work_pool=pool,
        work_queue=jobs_queue(definition.tenant) if duty.name == RUN_JOB else definition.tenant,
        job_variables=_job_variables(definition),
    )
    changes_at = _changes_at(definition, schedule, at)
    return Wanted(spec, schedule, changes_at, next_run(definition, schedule, rules.suspended, at))


def state_of(definition: Definition, suspended: Collection[str], at: datetime) -> str:
    """Return how a definition fares: `problem`, `suspended`, `paused`, `active` or `waiting`."""
    if definition.problem:
        return "problem"
    if definition.tenant in suspended:
        return "suspended"
    paused = definition.paused_until is not None and definition.paused_until > at
    if paused or not definition.enabled:
        return "paused"
    return "active" if definition.deployment_id else "waiting"


def next_run(
    definition: Definition, schedule: Schedule | None, suspended: Collection[str], at: datetime
) -> datetime | None:
    """Return the next occurrence after `at`; None on demand, when disabled, and past the end."""
    if schedule is None or not definition.enabled or definition.tenant in suspended:
        return None
    begins, ends = _begins(definition), _ends(definition)
    due = schedule.next_after(max(at, begins - TICK) if begins else at)
    if due is None or due >= NEVER or (ends and due > ends):
        return None
    return due


def _duty(name: str, rules: Rules) -> Duty:
    if name in rules.duties:
        return rules.duties[name]
    if name in rules.broken:
        raise Problem(f"duty: {rules.broken[name]}; mend or reinstall the package that brings it")
    raise Problem(f"duty: no duty is named {_short(name)}{_meant(name, rules.duties)}")


def build_for(definition: Definition) -> Schedule | None:
    """Return when a definition is due; None on demand only.

    What is due so long after a run, and not before a pause has ended, is due at the end of that.

    Raises:
        InvalidSchedule: A column holds what cannot be scheduled.
    """
    after_at, begins = definition.after_at, _begins(definition)
    schedule = build(
        cron=definition.cron,
        interval_seconds=definition.interval_seconds,
        anchor_at=definition.anchor_at,
        run_at=definition.run_at,
        after_seconds=definition.after_seconds,
        after_at=after_at if after_at and after_at < NEVER else None,
        timezone=definition.timezone,
        day_and=definition.day_and,
        created_at=definition.created_at,
    )
    if definition.after_seconds is None or not isinstance(schedule, Once) or begins is None:
        return schedule
    return Once(whole_second_from(begins)) if schedule.at < begins < NEVER else schedule


def missed_once(definition: Definition, schedule: Schedule | None) -> datetime | None:
    """Return the one date of a definition that was ahead when it was written, and has not run.

    Whoever applies it late has to have its run made from that date on. A date that a pause has
    let pass is not missed.
    """
    if not isinstance(schedule, Once) or _had_passed(definition):
        return None
    begins = _begins(definition)
    held_back = begins is not None and schedule.at < begins
    return None if held_back or _is_spent(definition, schedule) else schedule.at


def _had_passed(definition: Definition) -> bool:
    return definition.run_at is not None and definition.run_at < definition.updated_at


def _is_spent(definition: Definition, schedule: Once) -> bool:
    return definition.last_run_at is not None and definition.last_run_at >= schedule.at


def _check_once(definition: Definition, schedule: Schedule | None) -> None:
    """Refuse a date outside of its window, and one that had passed when it was written.

    One that passed since is just late.
    """
    if not isinstance(schedule, Once) or definition.after_seconds is not None:
        return
    due = f"run_at: {_instant(schedule.at)}"
    if definition.starts_at is not None and schedule.at < definition.starts_at:
        raise Problem(f"{due} lies before starts_at; move one of them, or clear starts_at")
    if definition.ends_at is not None and schedule.at > definition.ends_at:
        raise Problem(f"{due} lies after ends_at; move one of them, or clear ends_at")
    if _had_passed(definition) and not _is_spent(definition, schedule):
        raise Problem(
            f"{due} had passed when it was written; give a time ahead, or null to run on demand "
            "only"
        )


def _with_inputs(definition: Definition, duty: Duty) -> Mapping[str, Any]:
    try:
        inputs = declared(definition.inputs)
        if inputs and "input" not in duty.schema.get("properties", {}):
            raise Problem(
                f"inputs: {duty.name} has no parameter `input` for them to go into; remove them, "
                "or name another duty"
            )
        return filled(inputs, definition.parameters)
    except InvalidInput as invalid:
        raise Problem(str(invalid)) from invalid


def _parameters(parameters: Mapping[str, Any], duty: Duty) -> Mapping[str, Any]:
    _check_json("parameters", parameters)
    known = duty.schema.get("properties", {})
    for name in parameters:
        if name not in known:
            raise Problem(
                f"parameters.{_short(name, quote=False)}: {duty.name} takes no such parameter"
                f"{_meant(name, known)}"
            )
    if clause := _foreign_clause(parameters):
        raise Problem(
            f"parameters: {clause!r} is a key that Prefect itself resolves, and may not stand in "
            "a definition; write the value itself"
        )
    for error in duty.validator.iter_errors(dict(parameters)):
        where = ".".join(("parameters", *(str(part) for part in error.absolute_path)))
        raise Problem(f"{where}: {_reason(error)}; {duty.name} takes {_takes(error)}")
    return parameters


def _reason(error: Any) -> str:
    if error.validator == "required":
        return str(error.message).replace("is a required property", "is missing")
    return f"{_short(error.instance)} does not fit"


def _takes(error: Any) -> str:
    if error.validator == "required":
        return "it always"
    schema = {
        key: value
        for key, value in error.schema.items()
        if key not in ("title", "position", "description", "default")
    }
    return _short(schema, limit=160)


def _check_json(field: str, value: Mapping[str, Any]) -> None:
    """Refuse what PostgreSQL's JSON can hold and Prefect's API cannot."""
    try:
        if orjson.loads(orjson.dumps(value)) == value:
            return
        reason = "a number is too large"
    except TypeError as error:
        reason = str(error)
    raise Problem(
        f"{field}: Prefect cannot take this value ({reason}); write numbers that fit into 64 bits, "
        "or text, and nest at most 250 deep"
    )


def _foreign_clause(value: Any) -> str | None:
    """Find what would let a definition read Prefect's blocks and variables, or render code."""
    if isinstance(value, Mapping):
        if "__prefect_kind" in value:
            return "__prefect_kind"
        reference = value.get("$ref")
        if isinstance(reference, Mapping) and "block_document_id" in reference:
            return "$ref"
    if isinstance(value, Mapping | list):
        inner = value.values() if isinstance(value, Mapping) else value
        return next((found for one in inner if (found := _foreign_clause(one))), None)
    return None


def _pool(name: str, rules: Rules) -> str:
    if rules.work_pools is not None and name not in rules.work_pools:
        raise Problem(
            f"work_pool: Prefect has no pool {_short(name)}{_meant(name, rules.work_pools)}; make "
            f"it with `prefect work-pool create`, or leave the field null for {rules.work_pool}"
        )
    return name


def _description(definition: Definition, duty: Duty) -> str | None:
    parts = [definition.title and f"**{definition.title}**", definition.description]
    if definition.pause_note:
        parts.append(f"*Paused: {definition.pause_note}*")
    return "\n\n".join(part for part in parts if part) or duty.description


def _tags(definition: Definition) -> list[str]:
    for tag in definition.tags:
        if tag.startswith(("rota:", "rota.")) or not tag or len(tag) > 100:
            raise Problem(
                f"tags: {_short(tag)} cannot be a tag; use 1 to 100 characters that do not begin "
                "with 'rota:' or 'rota.'"
            )
    return list(dict.fromkeys(definition.tags))


def _job_variables(definition: Definition) -> dict[str, Any]:
    variables = dict(definition.job_variables)
    _check_json("job_variables", variables)
    own = variables.get("env")
    own = {} if own is None else own
    if not isinstance(own, Mapping):
        raise Problem(f"job_variables.env: {_short(own)} is no object; write names and values")
    reserved = (*POLICIES, ALLOW_COMMANDS)
    others = {name: value for name, value in own.items() if name not in reserved}
    variables["env"] = others | environment(
        definition.retries, definition.retry_delay_seconds, definition.timeout_seconds
    )
    return variables


def _active(definition: Definition, schedule: Schedule | None, rules: Rules, at: datetime) -> bool:
    if not definition.enabled or definition.tenant in rules.suspended:
        return False
    begins, ends = _begins(definition), _ends(definition)
    if begins is not None and at < _resumes(begins, schedule):
        return False
    if ends is None:
        return True
    due = schedule.next_after(at) if schedule else None
    return at <= ends and (due is None or due <= ends)


def _begins(definition: Definition) -> datetime | None:
    instants = [_within(at) for at in (definition.starts_at, definition.paused_until) if at]
    return max(instants, default=None)


def _ends(definition: Definition) -> datetime | None:
    return _within(definition.ends_at) if definition.ends_at else None


def _within(at: datetime) -> datetime:
    return min(max(at, EARLIEST), LATEST)


def _resumes(begins: datetime, schedule: Schedule | None) -> datetime:
    """Return when to resume: early enough for an occurrence at `begins`, later than any before."""
    resumes = begins - LEAD
    while schedule and (due := schedule.next_after(resumes)) and due < begins:
        resumes = due
    return resumes


def _changes_at(definition: Definition, schedule: Schedule | None, at: datetime) -> datetime | None:
    """Return the next instant after `at` that pauses or resumes the deployment by itself."""
    instants = []
    if (begins := _begins(definition)) is not None:
        instants.append(_resumes(begins, schedule))
    if (ends := _ends(definition)) is not None:
        instants.append(_last_until(ends, schedule))
    return min((instant for instant in instants if instant >= at), default=None)


def _last_until(ends: datetime, schedule: Schedule | None) -> datetime:
    """Return when to pause: at the last occurrence up to `ends`, or else at `ends`."""
    if isinstance(schedule, Once):  # which may be late, and is made up for until then
        return ends
    if isinstance(schedule, Interval):  # which is due before its anchor too
        step = timedelta(seconds=schedule.seconds)
        return schedule.anchor + (ends - schedule.anchor) // step * step
    return (schedule.previous_until(ends + TICK) if schedule else None) or ends


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    names = sorted(known)
    return f"; there are {', '.join(names[:12]) or 'none'}{', ...' if len(names) > 12 else ''}"


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _short(value: object, *, limit: int = 60, quote: bool = True) -> str:
    text = repr(value) if quote else str(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
