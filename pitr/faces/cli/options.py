"""Options that commands share, in groups: which moment, which rows, where to, how, who and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.domain.errors import InvalidRequest, NotFound
from pitr.faces.cli.targets import (
    TARGET_HELP,
    BeforeSeqOption,
    BeforeTxOption,
    LatestOption,
    moment,
    needed,
)
from pitr.faces.keys import row_of, rows_of_lines

if TYPE_CHECKING:
    from pitr.domain.restore_plan import Into
    from pitr.domain.rewind.columns import ColumnRules
    from pitr.faces.cli.command import Run
    from pitr.services.plan_record import Who


class OutputFormat(StrEnum):
    """What files may be written in."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"


class ModeName(StrEnum):
    """How a state gets into a PostgreSQL database."""

    FRESH = "fresh"
    SWAP = "swap"
    REWIND = "rewind"


class AddedRule(StrEnum):
    """What becomes of columns that the table of then had not."""

    KEEP = "keep"
    DEFAULT = "default"
    REFUSE = "refuse"


class GoneRule(StrEnum):
    """What becomes of columns that the table has no more."""

    REFUSE = "refuse"
    DROP = "drop"


class ConflictRule(StrEnum):
    """What becomes of rows that somebody else changed."""

    REFUSE = "refuse"
    OVERWRITE = "overwrite"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentOptions:
    """Which moment."""

    to: Annotated[
        str | None, typer.Option("--to", metavar="TARGET", help=f"The moment: {TARGET_HELP}")
    ] = None
    before_tx: BeforeTxOption = None
    before_seq: BeforeSeqOption = None
    latest: LatestOption = False

    def target(self, usage: str) -> str:
        """The one target that was given; ``usage`` is how the command is given one.

        Raises:
            InvalidRequest: None was given, or more than one.
        """
        said = moment(
            self.to,
            "--to",
            before_tx=self.before_tx,
            before_seq=self.before_seq,
            latest=self.latest,
        )
        return needed(said, usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOptions:
    """Which rows."""

    collection: Annotated[
        list[str] | None, typer.Option("--collection", "-c", help="Only this one; repeatable.")
    ] = None
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="C=KEY", help="Only this row, shop.orders=42; repeatable."),
    ] = None
    keys_from: Annotated[
        Path | None,
        typer.Option(
            "--keys-from",
            metavar="FILE",
            help='Only the rows of a file, lines like {"collection":"shop.orders","key":1}.',
        ),
    ] = None
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Only rows like 'tenant = acme' at that moment (a rewind: or now);"
            " repeatable, all must hold.",
        ),
    ] = None
    accept_gaps: Annotated[
        bool, typer.Option("--accept-gaps", help="Go by what there is despite known gaps.")
    ] = False

    @property
    def collections(self) -> frozenset[str] | None:
        """The collections that were named."""
        return frozenset(self.collection) if self.collection else None

    def keys(self) -> frozenset[tuple[str, str]] | None:
        """The rows that were named.

        Raises:
            InvalidRequest: One cannot be read, or collections were named as well.
            NotFound: The file is not there.
        """
        if not self.key and self.keys_from is None:
            return None
        if self.collection:
            raise InvalidRequest("name collections or rows", hint="leave out --collection or --key")
        rows = [row_of(text) for text in self.key or ()]
        if self.keys_from is not None:
            rows += rows_of_lines(bytes_of(self.keys_from))
        return frozenset(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindOptions:
    """What is for rewinds only."""

    with_references: Annotated[
        bool,
        typer.Option(
            "--with-references", help="A rewind brings along missing rows that others refer to."
        ),
    ] = False
    scan: Annotated[
        bool,
        typer.Option(
            "--scan", help="A rewind compares whole tables, not only what the log says changed."
        ),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOptions:
    """What a rewind does with columns that exist on one side only."""

    added: Annotated[
        AddedRule,
        typer.Option(
            "--added",
            help="A rewind and columns that the table of then had not: keep what they have, set"
            " their default, or refuse.",
        ),
    ] = AddedRule.KEEP
    gone: Annotated[
        GoneRule,
        typer.Option(
            "--gone", help="A rewind and columns that the table has no more: refuse, or drop them."
        ),
    ] = GoneRule.REFUSE

    def rules(self) -> ColumnRules:
        """As services take it."""
        from pitr.domain.rewind.columns import ColumnRules

        return ColumnRules(added=self.added.value, gone=self.gone.value)


INTO_HELP = (
    "postgresql://…, kafka://host/topic, a folder, a .ndjson, .csv or .parquet file, or - for"
    " stdout."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOptions:
    """Where to restore to, and how."""

    into: Annotated[
        str | None,
        typer.Option("--into", envvar="PITR_INTO", metavar="DEST", help=INTO_HELP),
    ] = None
    mode: Annotated[
        ModeName,
        typer.Option(
            "--mode",
            envvar="PITR_RESTORE_MODE",
            help="A database: tables that are empty or not there (fresh), exchanged for the live"
            " ones at the end (swap), or only what differs, in place (rewind).",
        ),
    ] = ModeName.FRESH
    format: Annotated[
        OutputFormat | None,
        typer.Option("--format", envvar="PITR_RESTORE_FORMAT", help="How files are written."),
    ] = None
    rows_only: Annotated[
        bool, typer.Option("--rows-only", help="NDJSON of the documents alone.")
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="Leave out members that no column takes.")
    ] = False

    def place(self, otherwise: str | None = None) -> Into:
        """Where to, and how.

        Raises:
            InvalidRequest: It was not said, and there is nothing else to take.
        """
        from pitr.domain.restore_plan import Into

        where = self.into or otherwise
        if where is None:
            raise InvalidRequest(
                "say where to restore into", hint="--into URL, or a folder or file; or --dry-run"
            )
        return Into(
            place=where,
            mode=self.mode.value,
            force=self.force,
            format=self.format.value if self.format is not None else None,
            rows_only=self.rows_only,
            drop_unknown=self.drop_unknown,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseOption:
    """Which database an operation changed, or a plan is for."""

    into: Annotated[
        str | None,
        typer.Option(
            "--into",
            envvar="PITR_INTO",
            metavar="DEST",
            help="Where to, with a password if need be; else where it was.",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitOptions:
    """How long to wait for the log."""

    wait: Annotated[bool, typer.Option("--wait", help="Wait until the log reaches the target.")] = (
        False
    )
    wait_timeout: Annotated[
        str,
        typer.Option("--wait-timeout", envvar="PITR_WAIT_TIMEOUT", help="How long, like 10m."),
    ] = "10m"

    @property
    def patience_us(self) -> int:
        """How long, µs; 0 is not at all.

        Raises:
            InvalidRequest: It cannot be read.
        """
        from pitr.domain.times import duration_us

        return duration_us(self.wait_timeout) if self.wait else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WhoOptions:
    """Who does it, and why."""

    actor: Annotated[
        str | None, typer.Option("--actor", help="Who does it. (PITR_ACTOR, else your login)")
    ] = None
    reason: Annotated[str | None, typer.Option("--reason", envvar="PITR_REASON", help="Why.")] = (
        None
    )

    def who(self, run: Run) -> Who:
        """As services take it."""
        from pitr.services.plan_record import Who

        return Who(actor=run.actor(self.actor), reason=self.reason)


YesOption = Annotated[bool, typer.Option("--yes", "-y", envvar="PITR_YES", help="Do not ask.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyOptions:
    """How a plan is applied."""

    on_conflict: Annotated[
        ConflictRule,
        typer.Option(
            "--on-conflict",
            envvar="PITR_ON_CONFLICT",
            help="Rows that somebody else changed meanwhile: refuse all, overwrite or skip them.",
        ),
    ] = ConflictRule.REFUSE
    yes: YesOption = False


def bytes_of(path: Path) -> bytes:
    """Read a file that was named.

    Raises:
        NotFound: It is not there.
        InvalidRequest: It cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound("there is no such file", file=path) from error
    except OSError as error:
        raise InvalidRequest("the file cannot be read", file=path, reason=error.strerror) from error
