"""The quality of a distilled set: KRR accuracy, networks trained on it, protocols, analyses.

`kip.evaluate.transfer`, `protocols` and `pretraining` load Flax, and are imported where they are used.
"""

from kip.evaluate.evaluate_set import Evaluation, evaluate_set

__all__ = ["Evaluation", "evaluate_set"]
