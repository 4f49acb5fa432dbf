"""`kip analyze`: the measures of a distilled set, beside those of natural images of the same number.

The natural images are those that the set started from, where it belongs to a run that has its first checkpoint, or a
class-balanced draw from the train split. Test images are looked at to describe the set, and nothing is chosen by them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kip import krr, sets
from kip.blocks import KernelBlocks
from kip.errors import ConfigError
from kip.evaluate import measures
from kip.evaluate.prepared import Support, check_classes, natural, prepared
from kip.evaluate.setting import Setting, Shared
from kip.evaluate.spectrum import frechet_distance
from kip.judges import KernelJudge
from kip.kernels import Kernel
from kip.networks import Network
from kip.progress import inner_stage
from kip.runs import folder
from kip.sets.distilled import Origin
from kip.training import predict

PART = 5000
"""Train images whose features are in memory at a time."""


def analyze(
    path: Path,
    blocks: KernelBlocks,
    *,
    kernel: Kernel | None = None,
    checkpoints: Sequence[int] = (),
    targets: int | None = None,
    repeats: int = 20,
    features: Network | None = None,
    feature_steps: int = 5000,
    data_dir: Path | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Measure a distilled set, or a run's.

    Args:
        path: an .npz file, or a run's folder.
        blocks: computes kernels; float64 is advisable, since the spectral bands do without a ridge.
        kernel: the kernel whose features and spectrum are measured; None means the set's own, the first of several.
        checkpoints: the steps of a run whose dimensions are measured as well.
        targets: how many test images bands and subsets are scored on, the first ones; None means all.
        repeats: how many random subsets of each size are drawn.
        features: a network whose last features the Frechet distance from the train images is taken in, after it has
            learned these (kept for other sets); None: it is not taken.
        feature_steps: the number of updates of that network, in batches of 100.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        show_progress: whether the training of that network shows a bar on stderr.

    Returns:
        JSON-ready: `dimensions` by step; and for `distilled` and `natural` images `dimensions`, `bands`, `subsampled`
        (accuracy by the fraction kept), `accuracy`, `frechet_distance` where it is taken; `nearest_natural`, and, where
        its images are of the data set's own classes, `label_matrix` and `labels_at_own_class`.

    Raises:
        ConfigError: as `kip.runs.folder.read_sets`; if the set has no kernel of its own and none is given; or if its
            labels are representations.
        DataError: if a set cannot be read, or the data set is not the set's.
        NonFiniteError: if K_ss without a ridge has no inverse in the dtype of `blocks`.
    """
    (distilled,) = folder.read_sets(path)
    data_dir = folder.place_of_data(path, data_dir)
    dataset, apply = prepared(distilled, data_dir)
    origin = distilled.origin
    check_classes(distilled, "an analysis")
    if isinstance(origin.judge, KernelJudge):
        ridge, chosen = origin.judge.ridge, kernel or origin.judge.kernels[0]
    elif kernel is not None:
        ridge, chosen = krr.Ridge(), kernel
    else:
        raise ConfigError(
            f"the kernel for an analysis of a set of {origin.method}",
            got="none: the method has none",
            expected="one of your choice",
            remedy="Add --kernel FC1, or another.",
        )
    test, classes = apply(dataset.test.images[:targets]), dataset.test.labels[:targets]
    natural_images, compared = _natural(path, lambda: natural(dataset, apply, len(distilled.images), 0, 0))
    results: dict[str, Any] = {
        "kernel": chosen.label,
        "images": len(distilled.images),
        "natural_images": natural_images,
    }
    for name, (images, labels) in {
        "distilled": (distilled.images_preprocessed, distilled.labels),
        "natural": compared,
    }.items():
        with inner_stage(f"measuring the {name} images"):
            k_ss, k_ts = measures.kernel_matrices(blocks, chosen, images, test)
            subsampled = measures.subsampled(k_ss, k_ts, labels, classes, ridge, repeats=repeats)
            results[name] = {
                "accuracy": subsampled[1.0],
                "dimensions": measures.dimensions(images, k_ss)._asdict(),
                "bands": [band._asdict() for band in measures.spectral_bands(k_ss, k_ts, labels, classes)],
                "subsampled": {str(fraction): accuracy for fraction, accuracy in subsampled.items()},
            }
    if features is not None:
        sets = {"distilled": distilled.images_preprocessed, "natural": compared[0]}
        results["features"] = features.label
        for name, distance in _frechet(sets, origin, features, feature_steps, data_dir, show_progress).items():
            results[name]["frechet_distance"] = distance
    results["dimensions"] = []
    for checkpoint in folder.read_sets(path, checkpoints, data_dir) if checkpoints else []:
        k_ss, _ = blocks.forward(chosen, checkpoint.images_preprocessed, checkpoint.images_preprocessed[:0])
        measured = measures.dimensions(checkpoint.images_preprocessed, k_ss)
        results["dimensions"].append({"step": checkpoint.metadata["step"], **measured._asdict()})
    near = measures.nearest_natural(
        distilled.images_preprocessed, distilled.class_index, apply(dataset.train.images), dataset.train.labels
    )
    results["nearest_natural"] = {
        "index": near.rows.tolist(),
        "distance": near.distance.tolist(),
        "own_class": near.own_class,
    }
    own = distilled.class_index
    if int(np.max(own)) < distilled.labels.shape[1]:  # else its images are of another data set, whose classes differ
        results["label_matrix"] = measures.label_matrix(distilled.labels, own).tolist()
        results["labels_at_own_class"] = float(np.mean(distilled.labels.argmax(1) == own))
    return results


def _frechet(
    sets: dict[str, np.ndarray],
    origin: Origin,
    network: Network,
    steps: int,
    data_dir: Path | None,
    show_progress: bool,
) -> dict[str, float]:
    """Return each set's Frechet distance from the train images in the features of a network that learned these."""
    shared = Shared(origin.data, origin.preprocess, origin.seed, data_dir=data_dir)
    setting = Setting(shared, show_progress=show_progress)
    model, variables, _ = setting.features(network, steps=steps)
    images = setting.dataset.train.images
    parts = (setting.transform.apply(images[first : first + PART]) for first in range(0, len(images), PART))
    mean, covariance = measures.moments(predict.features(model, variables, part) for part in parts)
    return {
        name: frechet_distance(predict.features(model, variables, of_set), mean, covariance)
        for name, of_set in sets.items()
    }


def _natural(path: Path, draw: Callable[[], Support]) -> tuple[str, Support]:
    """Return where the natural images came from, and them with their labels."""
    if path.is_dir() and (path / folder.INITIAL).is_file():
        first = sets.load(path / folder.INITIAL)
        return "those it started from", (first.images_preprocessed, first.labels)
    return "a class-balanced draw", draw()
