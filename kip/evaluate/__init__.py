"""How good is a distilled set: KRR accuracy, networks trained on it, protocols, analyses.

`kip.evaluate.transfer`, `protocols` and `pretraining` load Flax, and are imported where they are used.
"""

from kip.evaluate.evaluate_set import Evaluation, evaluate_set
from kip.evaluate.krr_accuracy import krr_accuracy
from kip.evaluate.set_accuracy import set_accuracies, trains_networks

__all__ = ["Evaluation", "evaluate_set", "krr_accuracy", "set_accuracies", "trains_networks"]
