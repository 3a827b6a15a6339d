"""`doctor`: whether a location is fit for a store, and what it contains."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer

from taquba._cli.options import AsJson, PayloadUrl, command
from taquba._cli.output import Column, print_fields, print_json, print_table, say
from taquba.doctor import Diagnosis, examine

_COLUMNS: Final = (
    Column("CHECK"),
    Column("OK"),
    Column("MS", right=True),
    Column("FOUND", "fold"),
)


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(
        app,
        "doctor",
        "taquba doctor ./data",
        "taquba doctor s3://bucket/prefix --json",
    )(doctor)


async def doctor(
    url: Annotated[
        str,
        typer.Argument(
            envvar="TAQUBA_STORE", metavar="URL", help="The location: empty, or a store."
        ),
    ],
    payload_url: PayloadUrl = None,
    as_json: AsJson = False,
) -> None:
    """Test whether a location is fit for a store.

    The test writes a few small objects below its own prefix, and removes them again. It does not
    disturb the owner of a store. Exit code 1 means that a check failed.
    """
    diagnosis = await examine(url, payload_url=payload_url)
    if as_json:
        print_json(
            {
                "url": diagnosis.url,
                "ok": diagnosis.ok,
                "contents": diagnosis.contents,
                "owner": None if diagnosis.owner is None else diagnosis.owner.presence.value,
                "owner_reason": None if diagnosis.owner is None else diagnosis.owner.reason,
                "checks": [asdict(check) for check in diagnosis.checks],
            }
        )
    else:
        _show(diagnosis)
    if not diagnosis.ok:
        raise typer.Exit(1)


def _show(diagnosis: Diagnosis) -> None:
    rows = [
        [
            check.name,
            "yes" if check.ok else "NO",
            "" if check.round_trip_ms is None else f"{check.round_trip_ms:.1f}",
            check.detail,
        ]
        for check in diagnosis.checks
    ]
    print_table(_COLUMNS, rows)
    say("")
    print_fields(
        [
            ("place", diagnosis.url),
            ("holds", diagnosis.contents),
            (
                "owner",
                None
                if diagnosis.owner is None
                else f"{diagnosis.owner.presence.value}: {diagnosis.owner.reason}",
            ),
            *((f"to do: {check.name}", check.remedy) for check in diagnosis.failures),
            ("fit", "yes" if diagnosis.ok else "no"),
        ]
    )
