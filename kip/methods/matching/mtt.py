"""MTT, matching training trajectories, with its exact gradient. See `kip.methods.matching.trajectory_matching`.

Reference: Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories", algorithm 1; public code,
`distill.py`.
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
class MTT(TrajectoryMatching):
    """Trajectory matching: learn images on which a student goes where experts went."""

    experts: Experts = Experts()
    """The experts that students follow."""
    gradient: Literal["exact", "truncated"] = "exact"
    """The gradient of the matching loss: `exact`, or `truncated` as TESLA takes it."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The weight of the past in the moving average of the images that is exported. 0 exports the images themselves."""
    name: Literal["mtt"] = "mtt"
