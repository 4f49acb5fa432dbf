"""DC, dataset condensation: gradient matching of images as they are. See `kip.methods.matching.gradient_matching`.

Learning starts from noise here, as in the paper.

Reference: Zhao, Mopuri, Bilen 2021, "Dataset Condensation with Gradient Matching", algorithm 1; public code, `main.py`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from typing_extensions import final

from kip.config import value
from kip.methods.matching.gradient_matching import GradientMatching
from kip.methods.matching.images import Start
from kip.training.protocols import PROTOCOLS, Protocol


@final
@value
class DC(GradientMatching):
    """Gradient matching: learn images whose gradients are those of natural images."""

    start: Start = "noise"
    """The images at step 0: normal noise (`noise`), or natural images (`real`)."""
    protocol: Protocol = PROTOCOLS["DC"]
    """The protocol by which the judge's networks are trained. The paper takes `DC`, and `DC-MNIST` for digits."""
    name: Literal["dc"] = "dc"

    siamese: ClassVar[bool] = False
    """Nothing is augmented."""
