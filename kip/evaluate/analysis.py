"""`kip analyze`: the measures of a distilled set, beside those of natural images of the same number.

The natural images are those that the set started from, where it belongs to a run that has its first checkpoint, or a
class-balanced draw from the train split. Test images are looked at to describe the set, and nothing is chosen by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kip.blocks import KernelBlocks
from kip.errors import ConfigError
from kip.evaluate import measures, runs
from kip.evaluate.natural import Support, natural, prepared
from kip.export import DistilledSet
from kip.kernels import Kernel


def analyze(
    path: Path,
    blocks: KernelBlocks,
    *,
    kernel: Kernel | None = None,
    checkpoints: Sequence[int] = (),
    targets: int | None = None,
    repeats: int = 20,
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """Measure a distilled set, or a run's.

    Args:
        path: an .npz file, or a run's folder.
        blocks: computes kernels; float64 is advisable, since the spectral bands do without a ridge.
        kernel: whose features and spectrum are looked at; None: the set's own, the first of several.
        checkpoints: of a run: steps whose dimensions are measured as well.
        targets: test images that bands and subsets are scored on, the first ones; None: all.
        repeats: random subsets of each size.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Returns:
        JSON-ready: `dimensions` by step; and for `distilled` and `natural` images `dimensions`, `bands`, `subsampled`
        (accuracy by the fraction kept), `accuracy`; `nearest_natural`, `label_matrix`, `labels_at_own_class`.

    Raises:
        ConfigError, DataError: as `kip.evaluate.runs.sets`, and if the data set is not the set's.
        NonFiniteError: if K_ss without a ridge has no inverse in the dtype of `blocks`.
    """
    (distilled,) = runs.sets(path)
    dataset, apply = prepared(distilled, data_dir)
    method: Any = distilled.experiment.method
    if not hasattr(method, "kernels"):
        raise ConfigError(
            "the set of an analysis",
            got=f"one of {method.label}, which has no kernel",
            expected="a set of KIP or Label Solve",
        )
    chosen = kernel or method.kernels[0]
    ridge = method.ridge
    test, classes = apply(dataset.test.images[:targets]), dataset.test.labels[:targets]
    origin, compared = _natural(path, distilled, lambda: natural(dataset, apply, len(distilled.images), 0, 0), data_dir)
    found: dict[str, Any] = {"kernel": chosen.label, "images": len(distilled.images), "natural_images": origin}
    for name, (images, labels) in {
        "distilled": (distilled.images_preprocessed, distilled.labels),
        "natural": compared,
    }.items():
        k_ss, k_ts = measures.kernel_matrices(blocks, chosen, images, test)
        subsampled = measures.subsampled(k_ss, k_ts, labels, classes, ridge, repeats=repeats)
        found[name] = {
            "accuracy": subsampled[1.0],
            "dimensions": measures.dimensions(images, k_ss)._asdict(),
            "bands": [band._asdict() for band in measures.spectral_bands(k_ss, k_ts, labels, classes)],
            "subsampled": {str(fraction): accuracy for fraction, accuracy in subsampled.items()},
        }
    found["dimensions"] = []
    for one in runs.sets(path, checkpoints, data_dir) if checkpoints else []:
        k_ss, _ = blocks.forward(chosen, one.images_preprocessed, one.images_preprocessed[:0])
        measured = measures.dimensions(one.images_preprocessed, k_ss)
        found["dimensions"].append({"step": one.metadata["step"], **measured._asdict()})
    near = measures.nearest_natural(
        distilled.images_preprocessed, distilled.class_index, apply(dataset.train.images), dataset.train.labels
    )
    found["nearest_natural"] = {
        "index": near.index.tolist(),
        "distance": near.distance.tolist(),
        "own_class": near.own_class,
    }
    found["label_matrix"] = measures.label_matrix(distilled.labels, distilled.class_index).tolist()
    found["labels_at_own_class"] = float(np.mean(distilled.labels.argmax(1) == distilled.class_index))
    return found


def _natural(path: Path, distilled: DistilledSet, draw: Any, data_dir: Path | None) -> tuple[str, Support]:
    """Return where the natural images came from, and them with their labels."""
    if path.is_dir() and (path / "checkpoints" / "000000.npz").is_file():
        (first,) = runs.sets(path, [0], data_dir)
        return "those it started from", (first.images_preprocessed, first.labels)
    return "a class-balanced draw", draw()
