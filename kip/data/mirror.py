"""Mirror images of the same class: a property of a data set, and not of its colours.

A mirrored photograph of a ship shows a ship, but a mirrored 2 is no digit, and a mirrored b is a d. SVHN's digits are
coloured and must not be flipped; Fashion-MNIST's clothes are grey and may be.
"""

from __future__ import annotations

KEEPS = ("cifar", "fashion", "imagenet", "tiny_imagenet", "imagenette", "stl10", "celeb")
"""Beginnings of the names of data sets whose mirror images keep their class."""
CHANGES = ("digits", "mnist", "emnist", "kmnist", "qmnist", "binarized_mnist", "svhn", "usps", "omniglot")
"""Beginnings of the names of data sets of digits, letters and characters."""


def mirror_keeps_class(name: str, *, channels: int) -> bool:
    """Return whether the mirror image of an image of a data set has the same class.

    Known names are looked up. A name that nobody here knows is most often of photographs where the images are RGB, and
    of writing, medical scans or the like where they are grey: there a wrong flip would teach wrong classes, and a
    missing one only leaves out an augmentation. `Data.mirror_keeps_class` overrides this guess.

    Args:
        name: the data set's name, such as `fashion_mnist` or `svhn_cropped`.
        channels: 1 for grey images, 3 for RGB images.

    >>> mirror_keeps_class("svhn_cropped", channels=3), mirror_keeps_class("fashion_mnist", channels=1)
    (False, True)
    """
    lowered = name.lower()
    if lowered.startswith(KEEPS):
        return True
    if lowered.startswith(CHANGES):
        return False
    return channels == 3
