"""The demo: a shop trades, an operator's mistake, a restore, and the proof that it is right."""

from pitr.demo.result import DemoResult
from pitr.demo.stage import run

__all__ = ["DemoResult", "run"]
