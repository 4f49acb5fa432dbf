"""Label Solve: the labels of natural images that minimise the KRR loss over the whole train set, in closed form.

    y_s = (K_ts A^-1)^+ y_t,    A = K_ss + lam I,    (X_t, y_t) the whole train set

Reference: Nguyen et al. 2021, equation 2. The public implementation solves the normal equations instead, with an
unscaled ridge; `ridge=Ridge(scale="absolute")` gives its ridge. The pseudo-inverse here does not square the condition.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from typing_extensions import final

from kip import krr
from kip.blocks import Source
from kip.config import value
from kip.data import centred_one_hot
from kip.judges import KernelJudge
from kip.kernels.architecture import Architecture, Kernel
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.problem import Problem, State
from kip.storage.artefacts import Store


@final
@value
class LabelSolve(Method[None, None]):
    """Closed-form labels for fixed natural images."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of support images of each class."""
    kernel: Kernel = Architecture()
    """The kernel of the KRR."""
    ridge: krr.Ridge = krr.Ridge()
    """The regulariser of the KRR, in the solve and in evaluation."""
    name: Literal["label_solve"] = "label_solve"

    @property
    def steps(self) -> int:
        """One: the solution is closed-form."""
        return 1

    @property
    def label(self) -> str:
        """The kernel of the KRR."""
        return self.kernel.label

    @property
    def labels_are(self) -> LabelsAre:
        """Solved scores."""
        return "scores"

    @property
    def judge(self) -> KernelJudge:
        """The regression that the labels are solved for."""
        return KernelJudge((self.kernel,), self.ridge)

    @property
    def needs(self) -> Needs:
        """The set takes images of each class, and the solve every train image once, as it is."""
        return Needs(self.images_per_class, kernels=(self.kernel,), differentiates=False, augmentation=False)

    def prepare(self, problem: Problem, store: Store) -> None:
        """Make nothing."""

    def init(self, problem: Problem, prepared: None) -> State[None]:
        """Return step 0: class-balanced natural images with centred one-hot labels."""
        return problem.natural_support(self.images_per_class)

    def step(self, problem: Problem, prepared: None, state: State[None]) -> tuple[State[None], Metrics]:
        """Return the state with its labels solved, and the loss that they leave over the train set.

        Memory: one run of kernel rows and an (n + c) x (n + c) triangle, however large the train set is.

        Raises: as `kip.krr.LabelSolver.solve`.
        """
        inputs = np.asarray(state.inputs)
        k_ss, _ = problem.blocks.forward(self.kernel, inputs, inputs[:0])
        solver = krr.LabelSolver(k_ss, problem.num_classes, self.ridge)
        for rows, k_ts in problem.blocks.rows(self.kernel, inputs, problem.inputs, source=Source("train")):
            solver.add(k_ts, centred_one_hot(problem.labels[rows], problem.num_classes))
        solved = solver.solve()
        metrics = {"loss": solved.loss, "condition": krr.condition_number(k_ss, self.ridge)}
        return state._replace(step=1, labels=solved.labels.astype(np.float32)), metrics
