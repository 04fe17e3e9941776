"""The tree of commands, ``--version``, and usage errors in the words of all other errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pitr.domain.errors import InvalidRequest
from pitr.faces.cli import (
    attach,
    capture,
    demo,
    find,
    ingest,
    lanes,
    marks,
    plan,
    quarantine,
    reconcile,
    records,
    restore,
    rows,
    serve,
    swapped,
    tail,
    undo,
    upkeep,
)
from pitr.faces.cli.command import (
    PANEL,
    CatalogOption,
    DataOption,
    DebugOption,
    Given,
    JsonOption,
    LogOption,
    StoreOption,
)
from pitr.faces.cli.console import EXIT_INTERRUPTED, Console, exit_code

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""The base of what the parser refuses; where it lives depends on typer's version."""


class Root(TyperGroup):
    """The top command: reports what the parser refuses like any other invalid request."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit."""
        given = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(given, "pitr", complete_var, False, windows_expand_args, **extra)
        except UsageError as error:
            code = _refused(error, Console(json="--json" in given))
        except typer.Abort:
            code = EXIT_INTERRUPTED
        sys.exit(code or 0)


def _refused(error: Exception, console: Console) -> int:
    # The parser's message and context have these names in every version of it.
    message = " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]
    message = message.replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "pitr"
    request = InvalidRequest(
        (message[:1].lower() + message[1:]).rstrip("."), hint=f"{path} --help tells what there is"
    )
    console.error(request)
    return exit_code(request)


app = typer.Typer(
    name="pitr",
    cls=Root,
    help="Event-sourced changelog and point-in-time recovery for the data behind an app.",
    epilog="Exit codes: 0 done, 1 bug, 2 invalid request, 3 not found, 4 conflict, "
    "5 unavailable, 6 data loss, 7 inconclusive.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    ctx: typer.Context,
    data: DataOption = None,
    log: LogOption = None,
    catalog_url: CatalogOption = None,
    store_url: StoreOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", rich_help_panel=PANEL)
    ] = False,
) -> None:
    """Keep the options for the command, or answer without one."""
    ctx.obj = Given(
        data=data,
        log=log,
        catalog_url=catalog_url,
        store_url=store_url,
        json=json,
        debug=debug,
    )
    if version:
        _print_version(Console(json=json))
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        request = InvalidRequest("say a command", hint="pitr --help lists them")
        Console(json=json).error(request)
        raise typer.Exit(exit_code(request))


def _print_version(console: Console) -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("pitr")
    except PackageNotFoundError:  # run from its folder, without having been installed
        number = "unknown"
    console.result(lambda: {"version": number}, lambda: f"pitr {number}")


CAPTURE, AUDIT, RECOVER, UPKEEP = "Capture", "Audit", "Recover", "Upkeep"

app.command("serve", rich_help_panel=CAPTURE)(serve.serve)
app.command("capture", rich_help_panel=CAPTURE)(capture.capture)
app.command("attach", rich_help_panel=CAPTURE)(attach.attach)
app.command("detach", rich_help_panel=CAPTURE)(attach.detach)
app.command("sources", rich_help_panel=CAPTURE)(attach.sources)
app.command("reconcile", rich_help_panel=CAPTURE)(reconcile.reconcile)
app.command("ingest", rich_help_panel=CAPTURE)(ingest.ingest)
app.add_typer(lanes.app, name="lanes", rich_help_panel=CAPTURE)
app.add_typer(quarantine.app, name="quarantine", rich_help_panel=CAPTURE)
app.command("status", rich_help_panel=AUDIT)(records.status)
app.command("tail", rich_help_panel=AUDIT)(tail.tail)
app.command("history", rich_help_panel=AUDIT)(rows.history)
app.command("show", rich_help_panel=AUDIT)(rows.show)
app.command("find", rich_help_panel=AUDIT)(find.find)
app.command("operations", rich_help_panel=AUDIT)(records.operations)
app.command("describe", rich_help_panel=RECOVER)(marks.describe)
app.command("mark", rich_help_panel=RECOVER)(marks.mark)
app.command("plan", rich_help_panel=RECOVER)(plan.plan)
app.command("apply", rich_help_panel=RECOVER)(plan.apply)
app.command("restore", rich_help_panel=RECOVER)(restore.restore)
app.command("undo", rich_help_panel=RECOVER)(undo.undo)
app.command("revert-tx", rich_help_panel=RECOVER)(undo.revert_tx)
app.command("swapped", rich_help_panel=RECOVER)(swapped.swapped)
app.command("verify", rich_help_panel=UPKEEP)(upkeep.verify)
app.command("snapshot", rich_help_panel=UPKEEP)(upkeep.snapshot)
app.command("compact", rich_help_panel=UPKEEP)(upkeep.compact)
app.command("demo", rich_help_panel=UPKEEP)(demo.demo)
