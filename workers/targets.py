"""The target images that a worker takes from its own disk, so that the server names them instead of sending them.

A worker loads the data set and fits the preprocessing as the server did, and both compare what they hold: the pixels of
every split by SHA-256, the preprocessed train images by CRC-32. Labels are read with the file and dropped.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from kip import config, data, preprocess
from kip.blocks import Source
from kip.blocks.source import checksum, select
from kip.config import value
from kip.data import Augment, Data, Dataset
from kip.errors import DataError
from kip.preprocess import Preprocess
from kip.storage.images import Images


@value
class TargetRecipe:
    """The origin of target images: the part of an experiment that a worker needs."""

    data: Data
    """The data set."""
    preprocess: Preprocess
    """The preprocessing, fitted on its train images."""
    augment: Augment
    """The augmentation of target batches."""
    seed: int
    """The experiment's root seed."""


def fingerprint(dataset: Dataset, train_inputs: Images) -> dict[str, Any]:
    """Return what server and worker compare: digests of the splits, and a checksum of the preprocessed train images."""
    digests = {name: getattr(dataset, name).digest() for name in ("train", "validation", "test")}
    return {**digests, "inputs": checksum(train_inputs)}


class Targets:
    """Makes target images by name.

    Args:
        recipe: `TargetRecipe` as a JSON-ready dictionary.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Raises:
        ConfigError: if the recipe is none.
        DataError: if the data set is not there.
    """

    def __init__(self, recipe: dict[str, Any], data_dir: Path | None = None):
        self.given = recipe
        self.recipe = config.from_json(TargetRecipe, json.dumps(recipe), source="recipe of the target images")
        if not re.fullmatch(r"\w[\w-]*", self.recipe.data.name):
            raise DataError("name of a data set", got=repr(self.recipe.data.name), expected="letters and digits")
        dataset = data.load(self.recipe.data, data_dir)
        self._transform = preprocess.fit(self.recipe.preprocess, dataset.train.images)
        self._pixels = {name: getattr(dataset, name).images for name in ("train", "validation", "test")}
        self._inputs = {"train": self._transform.apply(dataset.train.images)}
        self.fingerprint = fingerprint(dataset, self._inputs["train"])

    def get(self, source: Source) -> np.ndarray:
        """Return the images of a source, float32 (m, H, W, C).

        Raises:
            DataError: if an index lies outside the split, or the images are not those that the server has.
        """
        inputs = self._preprocessed(source.split)
        indices = np.arange(len(inputs)) if source.indices is None else source.indices
        if indices.ndim != 1 or (indices.size and not 0 <= indices.min() <= indices.max() < len(inputs)):
            raise DataError(f"indices of {source.split} images", got=indices.shape, expected=f"0..{len(inputs) - 1}")
        if source.step is not None:
            images = select(
                self._pixels[source.split],
                inputs,
                indices,
                transform=self._transform,
                policy=self.recipe.augment,
                seed=self.recipe.seed,
                step=source.step,
            )
        else:
            images = inputs if source.indices is None else inputs[indices]
        if source.checksum is not None and checksum(images) != source.checksum:
            raise DataError(
                "augmented target images differ from the server's",
                remedy="Install the same versions of kip, NumPy, SciPy and Pillow for the server and all workers.",
            )
        return images[slice(*(source.rows or (0, len(images))))]

    def _preprocessed(self, split: str) -> Images:
        if split not in self._inputs:
            self._inputs[split] = self._transform.apply(self._pixels[split])
        return self._inputs[split]
