"""The look of a set's images, classes and labels in pictures and on pages."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from kip.errors import ShapeError
from kip.pictures.canvas import cut, is_legible


def title_of(text: str) -> str:
    """Return a title without the deviation of initial weights, which tells no networks of one method apart.

    >>> title_of("cifar10, ConvNet-D3 width=64 w_std=0.57735, dc, step 250")
    'cifar10, ConvNet-D3 width=64, dc, step 250'
    """
    return re.sub(r" w_std=[\d.]+", "", text)


def displayed(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 1 or 3) as RGB (H, W, 3) in [0, 1], by the rule that `save_images` states."""
    shown = np.clip((np.asarray(image, np.float64) - 0.5) / contrast(image) + 0.5, 0, 1)
    return np.broadcast_to(np.nan_to_num(shown, nan=0.5), (*image.shape[:2], 3))


def contrast(image: np.ndarray) -> float:
    """Return what the contrast of an image is divided by, 1 or more; pixels that are not finite have no say."""
    distance = 2 * np.abs(image[np.isfinite(image)].astype(np.float64) - 0.5)
    return max(1.0, float(np.percentile(distance, 98))) if distance.size else 1.0


def shown_class(labels: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Return the class that each image is drawn under, (n,): its own, or, of another data set, its largest label's."""
    return labels.argmax(axis=1) if np.max(class_index) >= labels.shape[1] else class_index


def are_learned(labels: np.ndarray, class_index: np.ndarray) -> bool:
    """Return whether labels (n, c) are neither one-hot nor centred one-hot for their classes (n,)."""
    one_hot = np.zeros(labels.shape)
    one_hot[np.arange(len(labels)), class_index] = 1
    return not any(np.allclose(labels, y, atol=1e-6) for y in (one_hot, one_hot - 1 / labels.shape[1]))


def heading_of(number: int, class_names: Sequence[str], *, most: int | None = None) -> str:
    """Return what a class is called: its name, cut to so many letters, or `class 3` where it has none."""
    name = class_names[number] if number < len(class_names) else ""
    if not name or name.isdecimal():
        return f"class {number}"
    return name if most is None else cut(name, most)


LONGEST_TICK = 14
"""Letters of a class's name on an axis."""


def tick_of(number: int, class_names: Sequence[str]) -> str:
    """Return what stands at a class's place on an axis: its number and its name, such as `3 cat`."""
    heading = heading_of(number, class_names, most=LONGEST_TICK)
    return str(number) if heading == f"class {number}" else f"{number} {heading}"


def drawable(class_names: Sequence[str]) -> list[str]:
    """Return the names of classes for a picture: those that no installed font can draw are empty."""
    return [name if is_legible(name) else "" for name in class_names]


def prototypes(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what each class looks like as its labels mix the images: x_c = sum_n y_nc x_n / sum_n y_nc, (c, H, W, C).

    For label distillation between data sets: letters, mixed by their learned digit labels, resemble digits. A class
    without any label is zeros.

    Args:
        images: pixel space, (n, H, W, C).
        labels: probabilities, (n, c).

    Raises:
        ShapeError: if a label is negative: such labels mix no image.

    Reference: Bohdal et al. 2020, figure 9.
    """
    if np.min(labels) < 0:
        raise ShapeError(
            "labels for prototypes",
            got=f"a least entry of {np.min(labels):.3g}",
            expected="probabilities",
            remedy="Label distillation learns such labels; those of KIP are centred.",
        )
    total = labels.sum(axis=0)
    weights = labels / np.where(total > 0, total, 1)
    return np.tensordot(weights.T, images, axes=1)
