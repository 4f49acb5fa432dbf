"""TESLA: trajectory matching with a truncated gradient, `gradient="truncated"` of `kip.methods.matching.mtt`.

The paper writes the loss as a sum of one term for each of the student's steps, and differentiates these one by one with
the parameters of the steps held constant. On a network of one hidden layer (`tests/methods/matching/test_mtt.py`), the
gradient by the images of all steps but the last differs from the exact one by tens of percent. Its soft labels from a
teacher are `kip.methods.matching.datm`'s subject.

Reference: Cui et al. 2023, "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory"; public code.
"""

from __future__ import annotations

from typing import Literal

from kip.config import value
from kip.methods.matching.mtt import MTT


@value
class TESLA(MTT):
    """Trajectory matching with a truncated gradient: learn images."""

    gradient: Literal["exact", "truncated"] = "truncated"
    """Of the loss; see `kip.methods.matching.mtt`."""
    name: Literal["tesla"] = "tesla"  # type: ignore[assignment]
