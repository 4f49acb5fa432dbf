"""Label Solve: the labels of natural images that minimise the KRR loss over the whole train set, in closed form.

    y_s = (K_ts A^-1)^+ y_t,    A = K_ss + lam I,    (X_t, y_t) the whole train set

Reference: Nguyen et al. 2021, equation 2. The public implementation solves the normal equations instead, with an
unscaled ridge; `ridge=Ridge(scale="absolute")` gives its ridge. The pseudo-inverse here does not square the condition.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from kip import krr
from kip.blocks import Source
from kip.config import value
from kip.data import centred_one_hot
from kip.distill.problem import Problem, State
from kip.kernels.architecture import Architecture, Kernel


@value
class LabelSolve:
    """Closed-form labels for fixed natural images."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """Support images of each class."""
    kernel: Kernel = Architecture()
    """The kernel."""
    ridge: krr.Ridge = krr.Ridge()
    """Regulariser of the KRR, in the solve and in evaluation."""
    name: Literal["label_solve"] = "label_solve"

    @property
    def steps(self) -> int:
        """One: the solution is closed-form."""
        return 1

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernel, as every method names its kernels."""
        return (self.kernel,)

    @property
    def label(self) -> str:
        """The kernel, for titles."""
        return self.kernel.label


def init(config: LabelSolve, problem: Problem) -> State:
    """Return step 0: class-balanced natural images with centred one-hot labels."""
    return problem.natural_support(config.images_per_class)


def step(config: LabelSolve, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """Return the state with its labels solved, and the loss that they leave over the train set.

    Memory: one run of kernel rows and an (n + c) x (n + c) triangle, however large the train set is.

    Raises: as `kip.krr.LabelSolver.solve`.
    """
    k_ss, _ = problem.blocks.forward(config.kernel, state.images, state.images[:0])
    solver = krr.LabelSolver(k_ss, problem.num_classes, config.ridge)
    for rows, k_ts in problem.blocks.rows(config.kernel, state.images, problem.inputs, source=Source("train")):
        solver.add(k_ts, centred_one_hot(problem.labels[rows], problem.num_classes))
    solved = solver.solve()
    metrics = {"loss": solved.loss, "condition": krr.condition_number(k_ss, config.ridge)}
    return state._replace(step=1, labels=solved.labels.astype(np.float32)), metrics
