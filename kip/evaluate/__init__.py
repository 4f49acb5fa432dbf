"""How good is a distilled set: KRR accuracy, networks trained on it, protocols, analyses.

`kip.evaluate.transfer` and `protocols` load Flax, and are imported where they are used.
"""

from kip.evaluate.evaluate_set import Evaluation, evaluate_set
from kip.evaluate.krr_accuracy import krr_accuracy
from kip.evaluate.pretraining import pretraining_accuracies
from kip.evaluate.set_accuracy import set_accuracies, trains_networks

__all__ = ["Evaluation", "evaluate_set", "krr_accuracy", "pretraining_accuracies", "set_accuracies", "trains_networks"]
