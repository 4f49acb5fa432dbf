"""FTD, flat trajectory distillation: trajectory matching of experts that learned by GSAM, and averaged images.

With flat experts, a student that is a little beside their path comes out near them. The exported set is the moving
average of the images, with the weight `average` of the past.

Reference: Du et al. 2023, "Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation"; public code.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.methods.matching.experts import Experts
from kip.methods.matching.trajectory_matching import TrajectoryMatching

FLAT = Experts(sharpness=0.01, balance=0.3)
"""The experts of the public script, with the paper's balance for 1 and 10 images a class."""


@final
@value
class FTD(TrajectoryMatching):
    """Matching of flat trajectories: learn images."""

    experts: Experts = FLAT
    """The experts that students follow."""
    gradient: Literal["exact", "truncated"] = "exact"
    """The gradient of the matching loss: `exact`, or `truncated` as TESLA takes it."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    """The weight of the past in the moving average of the images that is exported. 0 exports the images themselves."""
    name: Literal["ftd"] = "ftd"
