"""Preprocessing fitted on the train images: channel standardisation, and four named kinds of ZCA whitening."""

from kip.preprocess.transform import Apply, Preprocess, Transform, fit

__all__ = ["Apply", "Preprocess", "Transform", "fit"]
