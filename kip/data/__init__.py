"""Data sets: sources and splits, labels, class-balanced sampling, augmentation."""

from kip.data.augment import Augment, augment
from kip.data.labels import centred_one_hot, one_hot
from kip.data.sampling import ClassIndex, class_balanced
from kip.data.sources import Data, Dataset, Split, load

__all__ = [
    "Augment",
    "ClassIndex",
    "Data",
    "Dataset",
    "Split",
    "augment",
    "centred_one_hot",
    "class_balanced",
    "load",
    "one_hot",
]
