"""How good is a distilled set: KRR accuracy, networks trained on it, protocols, analyses.

`kip.evaluate.transfer` and `protocols` load Flax, and are imported where they are used.
"""

from kip.evaluate.krr_accuracy import Evaluation, evaluate_set, krr_accuracy

__all__ = ["Evaluation", "evaluate_set", "krr_accuracy"]
