"""How commands are told which moment they mean: a target, or one of three short options."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.domain.errors import InvalidRequest

TARGET_HELP = (
    "latest, 2026-03-01T09:30:00Z, now-10m, seq:N, before-seq:N, before-tx:ID or mark:NAME."
)

BeforeTxOption = Annotated[
    str | None,
    typer.Option("--before-tx", metavar="ID", help="The moment just before this transaction."),
]
BeforeSeqOption = Annotated[
    int | None,
    typer.Option(
        "--before-seq",
        metavar="N",
        min=1,
        max=2**63 - 2,
        help="The moment just before this change.",
    ),
]
LatestOption = Annotated[bool, typer.Option("--latest", help="The newest there is.")]


def moment(
    named: str | None,
    option: str,
    *,
    before_tx: str | None,
    before_seq: int | None,
    latest: bool,
) -> str | None:
    """Return the one target that was given in any of these ways; None if none was.

    Args:
        option: How ``named`` is given, for messages.

    Raises:
        InvalidRequest: It was given in two ways, or a transaction without a name.
    """
    if before_tx == "":
        raise InvalidRequest("the transaction has no name", hint="pitr find lists transactions")
    given = {
        option: named,
        "--before-tx": None if before_tx is None else f"before-tx:{before_tx}",
        "--before-seq": None if before_seq is None else f"before-seq:{before_seq}",
        "--latest": "latest" if latest else None,
    }
    targets = {name: target for name, target in given.items() if target is not None}
    if len(targets) > 1:
        raise InvalidRequest(
            "the moment is said more than once", hint="say it once", options=" ".join(targets)
        )
    return next(iter(targets.values()), None)


def needed(target: str | None, usage: str) -> str:
    """Return the target; ``usage`` is how the command is given one.

    Raises:
        InvalidRequest: None was given.
    """
    if target is None:
        hint = f"{usage}; or --before-tx ID, --before-seq N, --latest in its place"
        raise InvalidRequest("say the moment", hint=hint)
    return target
