"""Cron as Semaphore reads it, in the words of `deployments.cron`.

Its fields are five, or six with a year. Day of month and day of week must both match, so what comes
out of here means the same with `day_and` only. Beside that, its reader differs in this:

    */2     in a field of days or months: what 2 divides, so the days 2, 4, 6; others begin at 1
    5L      the last Friday; others write L5
    L       as month is 12, as day of week 7
    0-6/2   leaves Sunday out, which counts as 7 there; refused, since nobody means that
"""

from __future__ import annotations

import re

from deployments.cron import Malformed, read, single_spaced

_FIVE = "write five: minute, hour, day of month, month, day of week"


def translated(at: str) -> str:
    """Return five cron fields that mean with `day_and` what Semaphore reads in `at`.

    Raises:
        Malformed: It is no cron expression, or none that Rota can follow.
    """
    text = single_spaced(at)
    if text.lower() == "@minutely":
        return "* * * * *"
    if not text.startswith("@"):
        minute, hour, day, month, weekday = _five(text.split(" "))
        day = _each(day, 31)
        month = _each(month, 12, L="12")
        text = " ".join((minute, hour, day, month, _weekdays(weekday)))
    read(text, True)
    return text


def _five(fields: list[str]) -> list[str]:
    if len(fields) < 5:
        whole = " ".join([*fields, *"*" * (5 - len(fields))])
        problem = f"has {len(fields)} field{'' if len(fields) == 1 else 's'}"
        raise Malformed(problem, f"write all five; Semaphore reads it as {whole!r}")
    if len(fields) > 6:
        raise Malformed(f"has {len(fields)} fields", _FIVE)
    if fields[5:] not in ([], ["*"]):
        problem = f"has {fields[5]!r} as its sixth field, the year, and no year counts here"
        remedy = "leave it out, or write a definition of Rota's with starts_at and ends_at"
        raise Malformed(problem, remedy)
    return fields[:5]


def _weekdays(field: str) -> str:
    for item in field.split(","):
        if re.fullmatch("(0|7|sun)-.+/.+", item.lower()):
            problem = f"has {item!r} as its day of week, of which Semaphore leaves days out"
            raise Malformed(problem, "write the days as a list, such as 2,4,6")
    return _each(re.sub(r"\b([0-7])L\b", r"L\1", field), 7, L="7")


def _each(field: str, most: int, **names: str) -> str:
    return ",".join(_multiples(names.get(item, item), most) for item in field.split(","))


def _multiples(item: str, most: int) -> str:
    match = re.fullmatch(r"\*/0*([1-9][0-9]*)", item)
    if match is None:
        return item
    step = int(match[1])
    if step > most:
        raise Malformed(f"has {item!r}, which nothing is", f"a step is at most {most} there")
    return "*" if step == 1 else ",".join(map(str, range(step, most + 1, step)))
