"""Distilled sets: their `.npz` file, other formats, and sets that others have published."""

from kip.sets.distilled import DistilledSet, Origin, distilled_set, load, save

__all__ = ["DistilledSet", "Origin", "distilled_set", "load", "save"]
