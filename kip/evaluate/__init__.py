"""How good is a distilled set: KRR accuracy under any kernel."""

from kip.evaluate.krr_accuracy import Evaluation, evaluate_set, krr_accuracy

__all__ = ["Evaluation", "evaluate_set", "krr_accuracy"]
