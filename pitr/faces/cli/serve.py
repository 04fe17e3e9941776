"""``pitr serve``: HTTP API, web page and upkeep until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from pitr.faces.cli.command import Run, command


@command
async def serve(
    run: Run,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on. (PITR_HOST)")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Port, 0 takes a free one. (PITR_PORT)"),
    ] = None,
) -> None:
    """Serve the HTTP API and the web page, and keep the logs in order.

    Without PITR_CATALOG_URL it runs its own PostgreSQL in the data folder.
    """
    from pitr.faces.cli.console import flush_stdout
    from pitr.faces.serve import serve as run_server

    # The HTTP server has its own idea of a calm end.
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)

    def ready(url: str) -> None:
        run.console.say(f"pitr serves at {url}")
        if run.console.json:
            run.console.document({"url": url})
            flush_stdout()

    await run_server(run.settings(host=host, port=port, log=run.given.log), ready=ready)
