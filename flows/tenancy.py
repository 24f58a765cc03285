"""The tenant whose records a run writes."""

from flows.occurrence import current_occurrence


class NoTenant(Exception):
    """It is not clear whose records to write."""


def own_tenant() -> str | None:
    """Return the slug of the tenant whose definition made the current run, if one did.

    Raises:
        NoOccurrence: There is no flow run around the caller.

    """
    reference = current_occurrence().reference
    return reference.partition("/")[0] if reference else None


def tenant_of(given: str | None) -> str:
    """Return the slug of the tenant that the current run works for.

    The definition says it. A run that no definition made is told it.

    Args:
        given: The run's parameter `tenant`, for a run that no definition made.

    Raises:
        NoTenant: Neither says it, or the parameter names another tenant than the definition's.
        NoOccurrence: There is no flow run around the caller.

    """
    reference, own = current_occurrence().reference, own_tenant()
    # A token may be good for all tenants, and whoever edits a definition only for its own.
    if own and given and given != own:
        raise NoTenant(
            f"tenant: {given!r} is not the tenant of the definition {reference!r}; leave the "
            "parameter out."
        )
    tenant = own or given
    if not tenant:
        raise NoTenant(
            "tenant: nobody says whose records to write. A run of a definition knows it; give any "
            "other run the parameter `tenant`."
        )
    return tenant
