"""A whitening as a file beside a set, with which NumPy alone treats new images as the set's were.

| array | shape, dtype | what |
|---|---|---|
| offset | (d,) float64 | is subtracted from the flattened pixels, uint8 / 255, d = H W C |
| scale | (d,) float64 | divides the remainder |
| image_scale | string | `nothing`, or each image's `deviation` or `length`: it divides what is left without its mean |
| whitening | (d, d) float32 | W, which multiplies the result from the right |

The metadata of the set has the SHA-256 of `whitening`, row by row, as `preprocess` / `whitening_sha256`.
`examples/numpy_and_sklearn.py` reads it. Sets that are standardised by channel, or not at all, have no such file: their
metadata says all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kip.preprocess.transform import Transform
from kip.storage.files import atomic_write


def beside(distilled: Path) -> Path:
    """Return where the whitening of a set's file lies: `preprocess.npz` for a run's set, else NAME.preprocess.npz."""
    if distilled.name == "distilled.npz":
        return distilled.with_name("preprocess.npz")
    return distilled.with_name(f"{distilled.stem}.preprocess.npz")


def save(transform: Transform, distilled: Path) -> None:
    """Write a fitted whitening beside a set's file; nothing for a preprocessing that the set's metadata says whole.

    Raises:
        OutputError: if the file cannot be written.
    """
    arrays: dict[str, Any] = {**transform.arrays()}
    if arrays:
        atomic_write(beside(distilled), lambda file: np.savez(file, **arrays))
