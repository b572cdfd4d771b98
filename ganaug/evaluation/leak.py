"""The leak guard at the evaluator's door: see `ganaug.data.leak`."""

from ganaug.data.leak import LeakReport, refuse_leak

__all__ = ["LeakReport", "refuse_leak"]
