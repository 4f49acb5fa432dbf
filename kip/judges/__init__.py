"""Judges of distilled sets: one file a judge. A judge sees arrays and never a method.

| kind | how a set is scored |
|---|---|
| krr | kernel ridge regression under each of its kernels |
| networks | fresh networks learn it by squared error |
| students | fresh networks are trained on it under a named protocol |
| descent | fresh networks take the steps of gradient descent whose rates it brings |
| learners | fresh networks learn it by its own training, for the steps that it names |
| random_features | kernel ridge regression on the features of fresh random networks |
| probe | a linear classifier on the features of fresh networks that were pre-trained on it |
"""

from __future__ import annotations

from typing import Annotated, Union

from pydantic import Field

from kip.judges.descent import LearnedDescent
from kip.judges.judge import Judge, Question, Support, Tools, by_class
from kip.judges.kernels import KernelJudge
from kip.judges.learners import Learners
from kip.judges.networks import TrainedNetworks
from kip.judges.probe import Probe
from kip.judges.random_features import RandomFeatures
from kip.judges.students import Students

AnyJudge = Annotated[
    Union[KernelJudge, TrainedNetworks, Students, LearnedDescent, Learners, RandomFeatures, Probe],
    Field(discriminator="kind"),
]
"""The judges that an exported set may name: a closed list, so that a set from elsewhere is data and never code."""

__all__ = [
    "AnyJudge",
    "Judge",
    "KernelJudge",
    "LearnedDescent",
    "Learners",
    "Probe",
    "Question",
    "RandomFeatures",
    "Students",
    "Support",
    "Tools",
    "TrainedNetworks",
    "by_class",
]
