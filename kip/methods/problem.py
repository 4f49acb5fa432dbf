"""The problem that every method is given, and the state that every method keeps."""

from __future__ import annotations

from typing import Any, Generic, cast

import numpy as np
import optax
from typing_extensions import NamedTuple, TypeVar  # typing's are neither generic nor have a default on CPython 3.10

from kip.blocks import KernelBlocks, Source
from kip.blocks.source import checksum, select
from kip.data import Augment, ClassIndex, Split, centred_one_hot
from kip.errors import ConfigError, DataError
from kip.judges import Support
from kip.methods.ahead import Ahead
from kip.precision import AnyArray
from kip.preprocess import Transform
from kip.rng import generator
from kip.storage.images import Images

Owned = TypeVar("Owned", default=Any)
Other = TypeVar("Other")


class State(NamedTuple, Generic[Owned]):
    """A distilled set in the making; a checkpoint is exactly this, and resuming needs nothing else.

    `State[Owned]` is the state of a method that keeps an `Owned` between its steps. None stands for what is absent.

    Attributes:
        step: the number of updates so far.
        inputs: X_s (n, H, W, C), the images as kernels and networks see them: preprocessed, float32.
        labels: y_s (n, c), float32.
        class_index: (n,) int64, the class that each image started from.
        statistics: (n, 2) float64, mean and scale that layer normalisation took from the image each started from;
            they invert the preprocessing (see `kip.preprocess`).
        optimizer: the optimiser's state, a pytree of arrays.
        deployment_steps: updates after which a network trained on the set is used; None where the set is not made for
            such a training.
        learning_rates: rates that the set is learned for, (k,): one for all updates of a network, or one for each.
        indices: where the images are in the train split, (n,) int64, for sets that are chosen and not learned.
        weights: weights of chosen images, (n,) float32.
        latents: latents that a generator makes the images of, (n, ...) float32.
        owned: all that a method keeps besides between its steps (networks, their optimisers, counters), a pytree of
            arrays of constant structure and shapes.
    """

    step: int
    inputs: AnyArray
    labels: AnyArray
    class_index: np.ndarray
    statistics: np.ndarray
    optimizer: optax.OptState = None
    deployment_steps: int | np.ndarray | None = None
    learning_rates: AnyArray | None = None
    indices: np.ndarray | None = None
    weights: np.ndarray | None = None
    latents: AnyArray | None = None
    owned: Owned = cast(Any, None)  # of a State[None]; others are given theirs

    def with_owned(self, owned: Other) -> State[Other]:
        """Return the same state of a method that keeps `owned`."""
        return State(*self[:-1], owned)

    @property
    def support(self) -> Support:
        """The set in the form that judges take, on the host."""
        steps, rates = self.deployment_steps, self.learning_rates
        return Support(
            np.asarray(self.inputs),
            np.asarray(self.labels),
            None if steps is None else int(steps),
            None if rates is None else np.asarray(rates),
        )


class Batch(NamedTuple):
    """Preprocessed images X_t (m, H, W, C), their mean-centred one-hot labels y_t (m, c), and their source."""

    images: np.ndarray
    labels: np.ndarray
    source: Source


class Problem(NamedTuple):
    """The train set and the tools; validation and test images are not in it, so that no method can choose by them.

    Where the set is not held in memory, `pixels` and `inputs` are `kip.storage.images.Lazy`: a method takes rows of
    them by index or by slice, and never the whole as an array.

    Attributes:
        pixels: train images, (N, H, W, C), uint8.
        inputs: the train images, preprocessed, float32.
        labels: the classes of the train images, (N,) int64.
        num_classes: C.
        classes: the images of each class, for balanced draws.
        transform: the fitted preprocessing.
        augment: the augmentation of target batches.
        blocks: computes kernels.
        seed: the root seed.
        base: another data set's train images, for methods that learn labels of those (`base` in their configuration).
        mirror_keeps_class: whether training may flip images.
        ahead: makes the next step's augmented batch in the meantime; None makes each when it is asked for.
    """

    pixels: Images
    inputs: Images
    labels: np.ndarray
    num_classes: int
    classes: ClassIndex
    transform: Transform
    augment: Augment
    blocks: KernelBlocks
    seed: int
    base: Split | None = None
    mirror_keeps_class: bool = False
    ahead: Ahead | None = None

    def natural_support(self, images_per_class: int) -> State[None]:
        """Return step 0 of any method: class-balanced train images with mean-centred one-hot labels."""
        chosen = self.classes.sample(images_per_class * self.num_classes, seed=self.seed, purpose="support")
        class_index = self.labels[chosen]
        return State(
            step=0,
            inputs=self.inputs[chosen],
            labels=centred_one_hot(class_index, self.num_classes),
            class_index=class_index,
            statistics=self.transform.statistics(self.pixels[chosen]),
        )

    def base_support(self, count: int) -> State[None]:
        """Return step 0 with `count` images of the other data set, drawn without a look at their classes.

        Their labels are uniform, 1/C: an image of another data set has no class here. `class_index` is its class there.

        Raises:
            ShapeError: if they differ in shape from the train images.
            DataError: if there are fewer than `count`.
        """
        assert self.base is not None
        if count > len(self.base.labels):
            raise DataError("images of the base data set", got=len(self.base.labels), expected=f"at least {count}")
        chosen = generator(self.seed, "base examples").choice(len(self.base.labels), count, replace=False)
        pixels = self.base.images[chosen]
        return State(
            step=0,
            inputs=self.transform.apply(pixels),
            labels=np.full((count, self.num_classes), 1 / self.num_classes, np.float32),
            class_index=self.base.labels[chosen],
            statistics=self.transform.statistics(pixels),
        )

    def target_batch(self, count: int | None, *, step: int, balanced: bool = True) -> Batch:
        """Return the step's target batch, drawn without replacement and augmented as configured.

        A pure function of (seed, step).

        Args:
            count: images, m; None means the whole train set, in its order.
            step: the step it is for.
            balanced: whether all classes have equal shares; else images are drawn uniformly, without a look at classes.
        """
        if self.ahead is None or self.augment.policy == "none":
            return self._target_batch(count=count, step=step, balanced=balanced)
        return self.ahead(self._target_batch, count=count, step=step, balanced=balanced)

    def _target_batch(self, *, count: int | None, step: int, balanced: bool) -> Batch:
        if count is None:
            chosen = np.arange(len(self.pixels))
        elif not balanced:
            chosen = generator(self.seed, "uniform target batch", step).choice(len(self.pixels), count, replace=False)
        else:
            chosen = self.classes.sample(count, seed=self.seed, purpose="target batch", step=step)
        images = select(
            self.pixels, self.inputs, chosen, transform=self.transform, policy=self.augment, seed=self.seed, step=step
        )
        if self.augment.policy == "none":
            source = Source("train", None if count is None else chosen)
        else:
            source = Source("train", chosen, step, checksum=checksum(images))
        return Batch(images, centred_one_hot(self.labels[chosen], self.num_classes), source)

    def class_batch(self, label: int, count: int, *, purpose: str, step: int) -> np.ndarray:
        """Return preprocessed train images of one class, (count, H, W, C), drawn without replacement.

        A pure function of (seed, purpose, step, label).

        Args:
            label: the class.
            count: images; all of the class where it has fewer.
            purpose: the purpose of the draw; other purposes draw other images.
            step: the step that they are for.
        """
        members = np.flatnonzero(self.labels == label)
        draw = generator(self.seed, purpose, step, label)
        return self.inputs[draw.choice(members, min(count, len(members)), replace=False)]

    def pixel_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the preprocessed values of black and of white, (1, H, W, C) each.

        Raises:
            ConfigError: if preprocessing mixes pixels, which then have no range of their own.
        """
        kind = self.transform.describe()["kind"]
        if kind not in ("none", "standardize"):
            raise ConfigError(
                "preprocess.kind", got=repr(kind), expected="'none' or 'standardize', which leave each pixel a range"
            )
        shape = (1, *self.pixels.shape[1:])
        black, white = (self.transform.apply(np.full(shape, value, np.uint8)) for value in (0, 255))
        return black, white

    def draw(self, purpose: str, count: int, *, step: int) -> int:
        """Return a uniform draw from range(count), a pure function of (seed, purpose, step)."""
        return int(generator(self.seed, purpose, step).integers(count))
