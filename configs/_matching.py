"""The common settings of published matching rows.

Row names are `DATA_ipcN`, such as `cifar10_ipc10`: ten images a class. Learning follows each method's public code; 5000
train images are held out, on which the checkpoint is chosen, where every public code keeps the checkpoint that is best
on test. Networks have the published width of 128.
"""

from __future__ import annotations

from kip.data import Data
from kip.experiment import Experiment, Reference
from kip.methods.contract import Method
from kip.preprocess import Preprocess

TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
ZCA = Preprocess("zca_kornia", regularization=0.1)
"""ZCA as the trajectory methods have it."""


def images_per_class(name: str) -> int:
    """Return N of a row's name `DATA_ipcN`."""
    return int(name.rpartition("_ipc")[2])


def row(
    name: str,
    method: Method,
    scores: dict[str, tuple[float, float]],
    paper: str,
    *,
    preprocess: Preprocess | None = None,
) -> Experiment:
    """Return the experiment of one published row.

    Args:
        name: `DATA_ipcN`.
        method: the method, with the images a class of the row.
        scores: accuracy and deviation in percent of each row, as printed.
        paper: the source of the scores.
        preprocess: None: standardisation by channel.
    """
    data, ipc = name.rpartition("_")[0], images_per_class(name)
    accuracy, spread = scores[name]
    return Experiment(
        data=Data(data, validation=5000),
        preprocess=preprocess or Preprocess("standardize"),
        method=method,
        checkpoint_every=max(1, method.steps // 20),
        reference=Reference(
            f"{paper}, {TITLES[data]}, {ipc} a class, {method.name.upper()}",
            accuracy=round(accuracy / 100, 6),
            spread=round(spread / 100, 6),
        ),
    )
