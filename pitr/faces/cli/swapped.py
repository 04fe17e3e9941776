"""``pitr swapped``: the tables that swaps replaced, and dropping them."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.domain.errors import InvalidRequest
from pitr.faces.cli.command import Run, command
from pitr.faces.cli.options import DatabaseOption, YesOption


@command
async def swapped(
    run: Run,
    place: DatabaseOption,
    drop: Annotated[
        str | None, typer.Option("--drop", metavar="ID", help="Drop those of this swap for good.")
    ] = None,
    yes: YesOption = False,
) -> None:
    """List the tables that restores with --mode swap replaced; drop those of one.

    Say the database with --into.
    """
    from pitr.domain.pgoutput.attach_url import checked_url
    from pitr.faces import render
    from pitr.faces.documents import swapped_document

    if place.into is None:
        raise InvalidRequest("say in which database", hint="pitr swapped --into URL")
    url, _ = checked_url(place.into)
    if drop is not None and not (yes or run.console.can_ask):
        raise InvalidRequest(
            "tables would be dropped, and there is no terminal to ask on",
            hint="--yes drops them without asking",
        )
    async with run.app() as app:
        if drop is None:
            found = await app.swapped(place.into)
            run.console.result(
                lambda: {"into": url, "swapped": [swapped_document(each) for each in found]},
                lambda: render.swapped_table(found),
            )
            if not found:
                run.console.say("no swap left tables there")
            return
        if not yes and not await run.console.ask(f"drop the tables that swap {drop} replaced?"):
            run.console.say("nothing was changed")
            return
        dropped = await app.drop_swapped(place.into, drop)
    run.console.result(
        lambda: {"into": url, "swap_id": drop, "dropped": list(dropped)},
        lambda: "\n".join(f"dropped {render.printable(each)}" for each in dropped),
    )
