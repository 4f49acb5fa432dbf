"""The scores of DD-Ranking, from accuracies as fractions: what a set is worth beyond soft labels and augmentation.

Reference: Li et al. 2025, "DD-Ranking: Rethinking the Evaluation of Dataset Distillation". Its released code (0.2.0)
puts percentages into the exponentials, which makes its LRS and ARS meaningless; HLR and IOR can be compared with it.
"""

from __future__ import annotations

import math


def hard_label_recovery(full: float, hard: float) -> float:
    """Return HLR = accuracy(full set, hard labels) - accuracy(distilled set, hard labels): the smaller the better.

    Args:
        full: test accuracy of the network trained on the whole train split, a fraction.
        hard: test accuracy of the network trained on the distilled set with hard labels, a fraction.
    """
    return full - hard


def improvement_over_random(distilled: float, random: float) -> float:
    """Return IOR = accuracy(distilled set) - accuracy(random natural images), under one protocol: larger is better.

    Args:
        distilled: test accuracy, a fraction.
        random: that of as many random natural images under the same protocol, a fraction.
    """
    return distilled - random


def label_robust_score(recovery: float, improvement: float, *, weight: float = 0.5) -> float:
    """Return LRS = (e^alpha - e^-1) / (e - e^-1) of alpha = w IOR - (1 - w) HLR, from 0 to 1.

    Args:
        recovery: HLR.
        improvement: IOR.
        weight: w.
    """
    return _score(weight * improvement - (1 - weight) * recovery)


def augmentation_robust_score(augmented: float, plain: float, *, weight: float = 0.5) -> float:
    """Return ARS = (e^beta - e^-1) / (e - e^-1) of beta = gamma IOR_augmented + (1 - gamma) IOR_plain, from 0 to 1.

    Args:
        augmented: IOR under a protocol that augments.
        plain: IOR under the same protocol without augmentation.
        weight: gamma.
    """
    return _score(weight * augmented + (1 - weight) * plain)


def _score(exponent: float) -> float:
    return (math.exp(exponent) - math.exp(-1)) / (math.e - math.exp(-1))
