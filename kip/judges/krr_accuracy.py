"""Accuracy of kernel ridge regression on a support set, over a test set of any size in bounded memory."""

from __future__ import annotations

import numpy as np

from kip import krr
from kip.blocks import KernelBlocks, Source
from kip.errors import DataError
from kip.kernels import Kernel
from kip.progress import progress_bar
from kip.storage.images import Images


def krr_accuracy(
    blocks: KernelBlocks,
    kernel: Kernel,
    ridge: krr.Ridge,
    support: np.ndarray,
    support_labels: np.ndarray,
    inputs: Images,
    labels: np.ndarray,
    *,
    source: Source | None = None,
) -> float:
    """Return the fraction of `inputs` that `krr_right` counts as right."""
    return float(krr_right(blocks, kernel, ridge, support, support_labels, inputs, labels, source=source).mean())


def krr_right(
    blocks: KernelBlocks,
    kernel: Kernel,
    ridge: krr.Ridge,
    support: np.ndarray,
    support_labels: np.ndarray,
    inputs: Images,
    labels: np.ndarray,
    *,
    source: Source | None = None,
    show_progress: bool = False,
) -> np.ndarray:
    """Return True for each of `inputs` whose largest prediction K_ts A^-1 y_s is at its class, (m,) bool.

    Args:
        blocks: computes kernels.
        kernel: the kernel.
        ridge: the regulariser.
        support: X_s (n, H, W, C), preprocessed.
        support_labels: y_s (n, c).
        inputs: images to classify (m, H, W, C), preprocessed, m >= 1.
        labels: the classes of `inputs`, (m,).
        source: the source of `inputs`, for executors whose workers hold the data set; None: not known.
        show_progress: whether a bar is shown on stderr.

    Raises:
        DataError: if there is no image to classify.
    """
    if len(inputs) == 0:
        raise DataError(
            "no image to classify", expected="at least one", remedy="Hold out some: data.validation is at least 1."
        )
    k_ss, _ = blocks.forward(kernel, support, support[:0])
    alpha = krr.fit(k_ss, support_labels, ridge)
    right = np.zeros(len(inputs), bool)
    entries = len(inputs) * len(support)
    with progress_bar(entries, f"regression under {kernel.label}", shown=show_progress, unit=" entries") as bar:
        for rows, k_ts in blocks.rows(kernel, support, inputs, source=source, on_entries=bar.update):
            right[rows] = (k_ts @ alpha).argmax(axis=1) == labels[rows]
    return right
