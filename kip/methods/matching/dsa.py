"""DSA, differentiable siamese augmentation: DC where natural and learned images are augmented alike before they match.

Each class of each step draws one operation and one set of its parameters, which serve all images of both sides
(`kip.training.augment`); the networks between steps learn from augmented images too. Learning starts from natural
images, and the networks that judge the set are trained with the same augmentation. The rest is
`kip.methods.matching.gradient_matching`.

Reference: Zhao and Bilen 2021, "Dataset Condensation with Differentiable Siamese Augmentation"; public code, `main.py`.
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
class DSA(GradientMatching):
    """Gradient matching under one augmentation of both sides: learn images."""

    start: Start = "real"
    """The images at step 0: normal noise (`noise`), or natural images (`real`)."""
    protocol: Protocol = PROTOCOLS["DSA"]
    """The protocol by which the judge's networks are trained."""
    name: Literal["dsa"] = "dsa"

    siamese: ClassVar[bool] = True
    """Natural and learned images are augmented alike."""
