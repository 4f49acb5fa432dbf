"""`kip show --representations`: where a KRR-ST set lies among real images, in two dimensions.

Reference: Lee et al. 2024 (KRR-ST), "Visualization": t-SNE of g(X_t), g(X_s) and Y_s; van der Maaten and Hinton 2008.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kip import data, preprocess
from kip.errors import ConfigError
from kip.methods.features.krr_st import KRRST
from kip.pictures.canvas import drawing, legible
from kip.rng import generator
from kip.sets.distilled import DistilledSet
from kip.storage.artefacts import Store
from kip.storage.files import atomic_write
from kip.training import self_supervised as teacher

PERPLEXITY = 30.0
"""The perplexity of t-SNE. It is less where there are few points, which have to be more than three times as many."""
STYLES = {
    "real images": ("o", 6, "#bdbdbd"),
    "learned images": ("o", 18, "#2f6db3"),
    "learned labels": ("x", 18, "#c0504d"),
}


Groups = dict[str, np.ndarray]
"""Points (n, d) by the name of what they are."""


def representations(distilled: DistilledSet, *, real: int = 1000, data_dir: Path | None = None) -> Groups:
    """Return the teacher's representations of real train images and of a set's, and the set's labels, each (n, d).

    Args:
        distilled: a set of KRR-ST.
        real: random train images.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Raises:
        ConfigError: if the set is of another method.
    """
    experiment = distilled.experiment
    config = experiment.method
    if not isinstance(config, KRRST):
        raise ConfigError("the method of the set", got=config.name, expected="krr_st, whose labels are representations")
    train = data.load(experiment.data, data_dir).train
    inputs = preprocess.fit(experiment.preprocess, train.images).apply(train.images)
    model, variables = teacher.train(config.teacher, inputs, seed=experiment.seed, store=Store())
    chosen = generator(experiment.seed, "embedded images").permutation(len(inputs))[:real]
    return {
        "real images": teacher.represent(model, variables, inputs[chosen]),
        "learned images": teacher.represent(model, variables, distilled.images_preprocessed),
        "learned labels": distilled.labels,
    }


def embed(parts: Groups) -> Groups:
    """Return t-SNE's planes of several groups of points (n, d), embedded together, each (n, 2)."""
    from sklearn.manifold import TSNE

    points = np.concatenate(list(parts.values()))
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    ends = np.cumsum([len(part) for part in parts.values()])[:-1]
    return dict(zip(parts, np.split(plane, ends), strict=True))


def draw(planes: Groups, path: Path, *, title: str) -> None:
    """Draw the groups of `representations` in the plane.

    Raises:
        OutputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    with drawing(title):
        figure = Figure(figsize=(5, 5), dpi=150, layout="constrained")
        ax = figure.subplots()
        for name, points in planes.items():
            marker, size, colour = STYLES[name]
            ax.scatter(*points.T, s=size, marker=marker, color=colour, linewidths=0.8, label=name)
        ax.set(title=legible(title), xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        atomic_write(path, lambda file: figure.savefig(file, format="png"))
