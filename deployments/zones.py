"""The time zones that Prefect can follow."""

import difflib
from collections.abc import Mapping
from functools import cache
from zoneinfo import available_timezones


def known(name: str) -> bool:
    """Tell whether Prefect can follow the zone `name`, an IANA name in its own spelling."""
    return _names().get(name.lower()) == name


def likely(name: str) -> str | None:
    """Return the zone whose name or city is most like `name`, None if there is none."""
    if any(char.isdigit() for char in name):  # an offset, and "Etc/GMT+1" means UTC-01:00
        return None
    names = _names()
    cities = {lower.rpartition("/")[2]: full for lower, full in sorted(names.items())}
    wanted = name.strip().lower().replace(" ", "_")[:64]
    for spellings in (names, cities):
        if close := difflib.get_close_matches(wanted, spellings, n=1, cutoff=0.8):
            return spellings[close[0]]
    return None


@cache
def _names() -> Mapping[str, str]:
    """Map every zone from its name in lower case.

    Listing them walks the whole time zone database, about 20 ms, hence the cache. Prefect's
    validation lets `Factory` and `localtime` through, but its scheduler does not know them.
    """
    return {name.lower(): name for name in available_timezones() - {"Factory", "localtime"}}
