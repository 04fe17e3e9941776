"""What every command shares: global options, one event loop, errors turned into exit codes."""

from __future__ import annotations

import asyncio
import functools
import inspect
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from pitr.domain.errors import InvalidRequest, NotFound, PitrError
from pitr.faces.cli.console import (
    EXIT_BUG,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_PIPE_CLOSED,
    EXIT_TERMINATED,
    Console,
    exit_code,
    flush_stdout,
    forget_stdout,
    is_broken_pipe,
)

if TYPE_CHECKING:
    from pitr.app import App
    from pitr.settings import Settings

PANEL = "Global options"

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of catalog and store. (PITR_DATA)", rich_help_panel=PANEL),
]
LogOption = Annotated[
    str | None, typer.Option("--log", help="Name of the log. (PITR_LOG)", rich_help_panel=PANEL)
]
CatalogOption = Annotated[
    str | None,
    typer.Option(
        "--catalog-url",
        help="PostgreSQL database of the catalog, instead of pitr's own. (PITR_CATALOG_URL)",
        rich_help_panel=PANEL,
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store-url",
        help="Where objects live, instead of the data folder. (PITR_STORE_URL)",
        rich_help_panel=PANEL,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        envvar="PITR_JSON",
        show_envvar=False,
        help="Print one JSON object. (PITR_JSON)",
        rich_help_panel=PANEL,
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", envvar="PITR_DEBUG", show_envvar=False, hidden=True)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The global options, as they were given before or after the name of the command."""

    data: DataOption = None
    log: LogOption = None
    catalog_url: CatalogOption = None
    store_url: StoreOption = None
    json: JsonOption = False
    debug: DebugOption = False

    def over(self, earlier: Given) -> Given:
        """These, and where they say nothing, the ones given earlier."""
        names = [field.name for field in fields(self)]
        return Given(**{name: getattr(self, name) or getattr(earlier, name) for name in names})


GLOBAL_OPTIONS: dict[str, Any] = {
    "data": DataOption,
    "log": LogOption,
    "catalog_url": CatalogOption,
    "store_url": StoreOption,
    "json": JsonOption,
    "debug": DebugOption,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command: what it was given, and how it talks."""

    given: Given
    console: Console

    def settings(self, **more: object) -> Settings:
        """The settings, with the options that were given on top.

        Raises:
            InvalidRequest: A variable has a wrong value.
        """
        from pitr.settings import load_settings

        given = self.given
        return load_settings(
            data=given.data, catalog_url=given.catalog_url, store_url=given.store_url, **more
        )

    @property
    def log(self) -> str:
        """The log that the command means."""
        return self.given.log or self.settings().log

    def app(self, *, create: bool = False) -> AbstractAsyncContextManager[App]:
        """Open the app.

        Args:
            create: Start an empty catalog where there is none; only what writes changes does.

        Raises:
            NotFound: There is no catalog in the data folder.
        """
        from pitr.app import open_app

        settings = self.settings()
        if not (create or self.has_data):
            raise NotFound(
                "there is no pitr data here",
                hint="pitr serve, pitr attach and pitr ingest start it; --data names another"
                " folder",
                data=settings.data,
            )
        return open_app(settings)

    @property
    def has_data(self) -> bool:
        """Whether there is a catalog, or somebody has said where one is."""
        settings = self.settings()
        return bool(settings.catalog_url) or (settings.data / "postgres").is_dir()

    def actor(self, given: str | None) -> str | None:
        """Who is recorded: who was named, else PITR_ACTOR, else the login name."""
        import getpass

        try:
            return given or self.settings().actor or getpass.getuser()
        except (KeyError, OSError):  # nobody is logged in, as in many containers
            return None


Work = Callable[..., Coroutine[Any, Any, int | None]]


def command(function: Work) -> Callable[..., int]:
    """Make a typer command of ``async def function(run, *, …)``, with the global options.

    A parameter whose type is a dataclass stands for the options that are its fields. The function
    returns None or an exit code; its errors are reported and become exit codes.
    """
    signature = inspect.signature(function, eval_str=True)
    given_own = list(signature.parameters.values())[1:]
    groups = {each.name: each.annotation for each in given_own if is_dataclass(each.annotation)}
    own = [
        option
        for each in given_own
        for option in (_options_of(groups[each.name]) if each.name in groups else [each])
    ]
    named = inspect.Parameter.KEYWORD_ONLY
    shared = [inspect.Parameter("ctx", named, annotation=typer.Context)]
    for name, annotation in GLOBAL_OPTIONS.items():
        default = False if name in ("json", "debug") else None
        shared.append(inspect.Parameter(name, named, annotation=annotation, default=default))

    @functools.wraps(function)
    def wrapper(*, ctx: typer.Context, **values: Any) -> int:
        given = Given(**{name: values.pop(name) for name in GLOBAL_OPTIONS}).over(
            ctx.obj if isinstance(ctx.obj, Given) else Given()
        )
        run = Run(given, Console(json=given.json))
        return guarded(run, lambda: _checked(function, run, values, groups))

    parameters = [parameter.replace(kind=named) for parameter in own] + shared
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapper


def _options_of(group: Any) -> list[inspect.Parameter]:
    """The options that the fields of a dataclass stand for."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[each.name],
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
        )
        for each in fields(group)
    ]


def _checked(
    function: Work, run: Run, values: dict[str, Any], groups: dict[str, Any]
) -> Coroutine[Any, Any, int | None]:
    """Refuse text that is not UTF-8 before it gets anywhere; paths may be any bytes."""
    for name, value in values.items():
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and name not in ("file", "into") and not _is_utf8(text):
                shown = {} if name == "url" else {"value": text}  # that may hold a password
                option = name.replace("_", "-")
                raise InvalidRequest("the argument is not UTF-8", argument=option, **shown)
    for name, group in groups.items():
        values[name] = group(**{each.name: values.pop(each.name) for each in fields(group)})
    return function(run, **values)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def guarded(run: Run, work: Callable[[], Coroutine[Any, Any, int | None]]) -> int:
    """Run to the end, whatever the end is; return the exit code."""
    try:
        code = _finished(work) or EXIT_DONE
        flush_stdout()
        return code
    except KeyboardInterrupt:
        run.console.say("pitr: interrupted")
        return EXIT_INTERRUPTED
    except asyncio.CancelledError:
        run.console.say("pitr: terminated")
        return EXIT_TERMINATED
    except Exception as error:  # the top of the process: every error ends here
        try:
            return _reported(run, _single(error))
        except BrokenPipeError:
            forget_stdout()
            return EXIT_PIPE_CLOSED


def _reported(run: Run, error: BaseException) -> int:
    if is_broken_pipe(error):
        raise BrokenPipeError from error
    if not isinstance(error, PitrError):
        run.console.bug(error, debug=run.given.debug)
        flush_stdout()
        return EXIT_BUG
    if run.given.debug:
        import traceback

        run.console.say("".join(traceback.format_exception(error)).rstrip())
    run.console.error(error)
    flush_stdout()
    return exit_code(error)


def _single(error: BaseException) -> BaseException:
    """The error in a group of one kind: what a task group makes of what its tasks raise."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _finished(work: Callable[[], Coroutine[Any, Any, int | None]]) -> int | None:
    """Run in an event loop of its own; SIGTERM takes everything down like an interrupt."""

    async def main() -> int | None:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            return await work()
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
