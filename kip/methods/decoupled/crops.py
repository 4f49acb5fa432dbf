"""Crops of natural images that a trained network is surest of, as RDED chooses them; other methods start from them."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from kip.config import to_dict, value
from kip.errors import ConfigError, ShapeError
from kip.methods.problem import Problem
from kip.networks.model import Model, Variables
from kip.rng import key
from kip.storage.artefacts import Store, digest
from kip.training.augment import crop_randomly
from kip.training.losses import per_example
from kip.training.predict import logits


@value
class Crops:
    """The choice of crops of natural images by a trained network; see `kip.methods.decoupled.rded`."""

    pool: Annotated[int, Field(ge=1)] = 300
    """The number of natural images of each class that are cropped."""
    count: Annotated[int, Field(ge=1)] = 5
    """The number of random crops of each natural image."""
    factor: Annotated[int, Field(ge=1)] = 1
    """The number of crops along a side of an image, which is made of factor^2 crops."""

    def of_class(
        self, model: Model, variables: Variables, problem: Problem, label: int, images: int
    ) -> tuple[np.ndarray, float]:
        """Return images of a class that are made of the best crops, (images, H, W, C), and the crops' mean score.

        Args:
            model: the network that scores.
            variables: its own.
            problem: gives the train images.
            label: the class.
            images: the number of images.

        Raises:
            ConfigError: if there are fewer images than crops are wanted.
        """
        natural = problem.class_batch(label, self.pool, purpose="pool of crops", step=0)
        best = best_crops(
            model,
            variables,
            natural,
            label,
            key(problem.seed, "crops", label),
            count=self.count,
            side=natural.shape[1] // self.factor,
        )
        if len(natural) < images * self.factor**2:
            raise ConfigError(
                "pool of crops",
                got=f"{len(natural)} images of class {label}",
                expected=f"at least {images * self.factor**2}, one for each crop of the set",
            )
        order = np.argsort(best.scores, kind="stable")[: images * self.factor**2]
        return stitch(best.crops[order], self.factor), float(best.scores[order].mean())

    def of_classes(self, model: Model, variables: Variables, problem: Problem, images: int, store: Store) -> np.ndarray:
        """Return images of every class, (c, images, H, W, C); those of a class are made once and kept.

        Raises:
            ShapeError: if images cannot be cut into `factor` by `factor` crops.
            ConfigError: if there are fewer images than crops are wanted.
        """
        self.check(problem)
        identity = {
            "crops": to_dict(self),
            "network": to_dict(model.network),
            "seed": problem.seed,
            "images": images,
            "variables": digest(*(np.asarray(leaf) for leaf in jax.tree.leaves(variables))),
            "set": digest(problem.inputs, problem.labels),
        }
        like, made = {"images": np.zeros((images, *problem.inputs.shape[1:]), np.float32)}, []
        with store.progress(problem.num_classes, "crops") as bar:
            for label in range(problem.num_classes):
                artefact = store.artefact("crops", {**identity, "label": label})
                if (found := artefact.load(like)) is None:
                    chosen, _ = self.of_class(model, variables, problem, label, images)
                    found = {"images": chosen.astype(np.float32)}
                    artefact.save(found)
                made.append(found["images"])
                bar.update()
        return np.stack(made)

    def check(self, problem: Problem) -> None:
        """Refuse images that cannot be cut into `factor` by `factor` crops.

        Raises:
            ShapeError: if they cannot.
        """
        height, width = problem.inputs.shape[1:3]
        if height != width or height % self.factor:
            divisible = f" with a side divisible by {self.factor}" if self.factor > 1 else ""
            side = max(1, min(height, width) // self.factor) * self.factor
            raise ShapeError(
                "images that are cropped",
                got=f"{height}x{width}",
                expected=f"squares{divisible}",
                remedy=f"--data.side {side} brings a folder of pictures to squares; other images must be resized.",
            )


class Best(NamedTuple):
    """The best crop of each image, (N, side, side, C), and its score, (N,)."""

    crops: np.ndarray
    scores: np.ndarray


def best_crops(
    model: Model, variables: Variables, images: np.ndarray, label: int, key: Array, *, count: int, side: int
) -> Best:
    """Return the best of `count` random crops of each image, by its cross-entropy when it is centred in zeros.

    Args:
        model: the network that scores.
        variables: the network's.
        images: of one class, (N, H, H, C).
        label: the class.
        key: of the crops.
        count: crops of each image.
        side: pixels of a crop after it was resized.
    """
    pad = images.shape[1] - side
    pads = ((0, 0), *[(pad // 2, pad - pad // 2)] * 2, (0, 0))
    crops, scores = [], []
    for number in range(count):
        crops.append(np.asarray(crop_randomly(jax.random.fold_in(key, number), images, side=side)))
        outputs = logits(model, variables, np.pad(crops[-1], pads))
        labels = np.eye(outputs.shape[1], dtype=np.float32)[np.full(len(images), label)]
        scores.append(np.asarray(per_example("xent", jnp.asarray(outputs), jnp.asarray(labels))))
    best = np.argmin(scores, axis=0)
    rows = np.arange(len(images))
    return Best(np.stack(crops)[best, rows], np.stack(scores)[best, rows])


def stitch(crops: np.ndarray, factor: int) -> np.ndarray:
    """Return images made of factor^2 crops each: (n factor^2, s, s, C) to (n, factor s, factor s, C)."""
    side, channels = crops.shape[1], crops.shape[3]
    grid = crops.reshape(-1, factor, factor, side, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(-1, factor * side, factor * side, channels)
