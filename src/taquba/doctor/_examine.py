"""The examination: test the store, check the disk, read the contents."""

from __future__ import annotations

import os
from dataclasses import replace

from taquba._objects.location import StoreLocation
from taquba.doctor._contents import find_contents
from taquba.doctor._diagnosis import Check, Diagnosis
from taquba.doctor._folder import check_folder, existing_part
from taquba.doctor._log import check_log
from taquba.doctor._requests import check_requests, is_usable


async def examine(
    url: str | os.PathLike[str], *, payload_url: str | os.PathLike[str] | None = None
) -> Diagnosis:
    """Test whether `url` meets the needs of a queue, and find out what it contains.

    A store is never opened for writing, so a running owner is not disturbed. The test writes a few
    small objects below its own prefix inside the location, and removes them again. For a location
    in memory there is nothing to test.

    Args:
        url: As for `Queue.open`.
        payload_url: As for `Queue.open`: where large payloads are kept, by default next to the
            store. This location is tested as well.

    Raises:
        InvalidArgument: A URL cannot be used. Problems of a store itself are results, not
            exceptions.
    """
    location = StoreLocation.parse(url)
    payloads = location.for_payloads(payload_url)
    checks = await _try_out(location, database=True, disk=True)
    elsewhere = payload_url is not None
    # Next to a store that cannot be used, the same checks would fail again.
    payload_checks = (
        await _try_out(payloads, database=False, disk=elsewhere)
        if elsewhere or is_usable(checks)
        else []
    )
    contents = owner = None
    if checks[0].ok:
        contents, owner, check = await find_contents(location)
        checks.append(check)
        if owner is not None:
            detail = f"{owner.presence.value}: {owner.reason}"
            checks.append(Check(name="owner", ok=True, detail=detail))
        # A damaged log may be the reason why the contents are unknown.
        if contents in ("store", None) and not location.in_memory:
            checks.append(await check_log(location))
    checks += [replace(check, name=f"payloads: {check.name}") for check in payload_checks]
    return Diagnosis(url=location.url, checks=tuple(checks), contents=contents, owner=owner)


async def _try_out(location: StoreLocation, *, database: bool, disk: bool) -> list[Check]:
    """Checks of one location; the first one is whether it can be reached.

    Args:
        location: The location to check.
        database: Whether it is for a database, and not for payloads only.
        disk: Whether to check the disk of a folder, too.
    """
    if location.in_memory:
        return [Check(name="reach", ok=True, detail="in the memory of this process")]
    if location.folder is None:
        return await check_requests(location, database=database)
    # A missing folder is not created: it would be on the same disk as the one above it.
    folder = await existing_part(location.folder)
    checks = await check_requests(StoreLocation.parse(folder), database=database)
    return checks + await check_folder(folder) if disk and is_usable(checks) else checks
