"""Does it help? Paired studies with honest intervals, classification accuracy score, leak guard."""

from ganaug.evaluation.arms import ARMS
from ganaug.evaluation.cas import cas
from ganaug.evaluation.leak import refuse_leak
from ganaug.evaluation.results import StudyResult
from ganaug.evaluation.stats import PairedDifference, Verdict, paired_difference, verdict
from ganaug.evaluation.study import run_study

__all__ = [
    "ARMS",
    "PairedDifference",
    "StudyResult",
    "Verdict",
    "cas",
    "paired_difference",
    "refuse_leak",
    "run_study",
    "verdict",
]
