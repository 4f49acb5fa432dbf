"""Methods with infinitely wide networks: KIP and Label Solve. Each file has a Config value, `init` and `step`."""

from kip.distill.kip import KIP
from kip.distill.label_solve import LabelSolve
from kip.distill.problem import Batch, Problem, State

__all__ = ["KIP", "Batch", "LabelSolve", "Problem", "State"]
