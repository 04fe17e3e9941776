"""The command line. It parses, calls services and prints; it decides nothing about data.

Heavy modules are imported inside the commands that need them, so that ``--help`` is quick.
"""

from __future__ import annotations

from pitr.faces.cli.root import app
from pitr.faces.interpreter import set_interpreter

__all__ = ["app", "main"]


def main() -> None:
    """Run the command that the process was started with; never returns."""
    set_interpreter()
    app()
