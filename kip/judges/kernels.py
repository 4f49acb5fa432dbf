"""The judge of sets made under kernels: kernel ridge regression on the set, under each kernel."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from kip.config import value
from kip.judges.judge import Judge, Question, Support, Tools
from kip.judges.krr_accuracy import krr_right
from kip.kernels.architecture import Kernel
from kip.krr import Ridge


@value
class KernelJudge(Judge):
    """Kernel ridge regression; each kernel is one row of the result."""

    kernels: Annotated[tuple[Kernel, ...], Field(min_length=1)]
    """The kernels that the set is judged under."""
    ridge: Ridge = Ridge()
    """The regulariser of the regression."""
    kind: Literal["krr"] = "krr"

    @property
    def label(self) -> str:
        """The first kernel."""
        return self.kernels[0].label

    @property
    def drawn(self) -> None:
        """Nothing is drawn: a kernel is a function."""
        return None

    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images are classified right under each kernel, (kernels, m).

        Raises:
            DataError: if there is no image to classify.
        """
        right = [
            krr_right(
                tools.blocks,
                kernel,
                self.ridge,
                np.asarray(support.inputs),
                np.asarray(support.labels),
                question.inputs,
                question.classes,
                source=question.source,
                show_progress=tools.show_progress,
            )
            for kernel in self.kernels
        ]
        return np.stack(right)
