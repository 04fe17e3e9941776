"""The demo: a shop that trades, an operator's mistake, a restore, and the proof that it is exact."""

from pitr.demo.result import DemoResult
from pitr.demo.stage import run

__all__ = ["DemoResult", "run"]
