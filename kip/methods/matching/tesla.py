"""TESLA: trajectory matching with a truncated gradient. See `kip.methods.matching.trajectory_matching`.

The paper writes the loss as a sum of one term for each of the student's steps, and differentiates these one by one with
the parameters of the steps held constant. On a network of one hidden layer (`tests/methods/matching/test_mtt.py`), the
gradient by the images of all steps but the last differs from the exact one by tens of percent. Its soft labels from a
teacher are `kip.methods.matching.datm`'s subject.

Reference: Cui et al. 2023, "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory"; public code.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.methods.matching.experts import Experts
from kip.methods.matching.trajectory_matching import TrajectoryMatching


@final
@value
class TESLA(TrajectoryMatching):
    """Trajectory matching with a truncated gradient: learn images."""

    experts: Experts = Experts()
    """The experts that students follow."""
    gradient: Literal["exact", "truncated"] = "truncated"
    """The gradient of the matching loss: `exact`, or `truncated` as TESLA takes it."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The weight of the past in the moving average of the images that is exported. 0 exports the images themselves."""
    name: Literal["tesla"] = "tesla"
