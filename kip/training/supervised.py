"""Training networks on labelled images, with early stopping; and teachers, which label images for other networks.

The choices of a scheme or protocol are a `Recipe`; those of a search (rate, decay, key) are arrays. Only validation
images come here, and never test images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip import rng
from kip.networks import Model, Network
from kip.networks.model import Variables, fresh
from kip.storage.images import Images, Lazy
from kip.training.augment import Augmentation, augment_images
from kip.training.batches import Batches
from kip.training.devices import free_devices
from kip.training.loop import NO_HOOKS, Hooks, Progress, Rule, fit
from kip.training.losses import Loss, per_example
from kip.training.mix import Mix, Mixture, mix_images
from kip.training.predict import accuracy
from kip.training.prefetch import on_device
from kip.training.recipe import Optimizer, Recipe, with_rates
from kip.training.resume import Artefact
from kip.training.update import Batch, Evaluated

MIXING = 1 << 16
"""The number that a batch's key is folded with for mixing: augmentations split it into a few."""


class Labeller(NamedTuple):
    """A trained network that labels every augmented view."""

    model: Model
    variables: Variables
    batch_statistics: bool = False
    """True if its batch normalisation takes the statistics of each batch, and not those of its training."""


class Trained(NamedTuple):
    """Trained networks; r counts them."""

    variables: list[Variables]
    """The parameters (and running statistics) of each network that `Recipe.keep` names."""
    validation_accuracy: np.ndarray
    """The validation accuracy of these parameters, a fraction, (r,)."""
    step: np.ndarray
    """The number of updates that led to these parameters, (r,)."""
    curve: np.ndarray
    """The validation accuracy at each evaluation, (r, evaluations)."""
    loss: np.ndarray
    """The mean training loss between evaluations, (r, evaluations)."""


@dataclasses.dataclass(frozen=True)
class Supervised:
    """The objective: the loss of a network's outputs for augmented and mixed images with their labels.

    Attributes:
        model: the network.
        loss: its name.
        temperature: T of `kl`.
        augment: the augmentation of images.
        labeller: the network that labels each view, its variables the batch's `extra`; None takes the batch's labels.
        batch_statistics: see `Labeller`.
        mix: the mixing of images.
        class_weight: the weight of the cross-entropy at the classes of the batch's labels, beside the labels of views.
        stored: whether the labels of the views are the batch's `extra`, (b, c), of any float type.
    """

    model: Model
    loss: Loss
    temperature: float = 1.0
    augment: Augmentation = "none"
    labeller: Model | None = None
    batch_statistics: bool = False
    mix: Mix = "none"
    class_weight: float = 0.0
    stored: bool = False

    def __call__(self, variables: Variables, batch: Batch, key: Array) -> Evaluated:
        """Return the objective in training mode."""
        view, loss, labels = self.view(key, batch.images), self.loss, batch.labels

        def classes() -> Array:
            return view.labels(jax.nn.one_hot(batch.labels.argmax(1), batch.labels.shape[1]))

        if self.labeller is not None:
            labels = self.labeller.apply(batch.extra, view.images, train=self.batch_statistics).logits
        elif self.stored:
            labels = batch.extra.astype(view.images.dtype)
        elif self.mix != "none":
            loss, labels = ("soft_xent", classes()) if loss == "xent" else (loss, view.labels(labels))
        outputs = self.model.apply(variables, view.images, train=True)
        losses = per_example(loss, outputs.logits, labels, temperature=self.temperature)
        if self.class_weight:
            losses = losses + self.class_weight * per_example("soft_xent", outputs.logits, classes())
        return Evaluated(losses.mean(), losses, outputs.variables)

    def view(self, key: Array, images: Array) -> Mixture:
        """Return the augmented and mixed images of an update, a function of its key."""
        images = augment_images(self.augment, key, images)
        return mix_images(self.mix, jax.random.fold_in(key, MIXING) if self.mix != "none" else key, images)


class _Best(NamedTuple):
    """The best networks and the curves that `train` keeps between evaluations."""

    variables: Any
    accuracy: np.ndarray
    step: np.ndarray
    curve: np.ndarray
    loss: np.ndarray


def train(
    model: Model,
    recipe: Recipe,
    keys: Array,
    rates: np.ndarray,
    decays: np.ndarray,
    images: Images,
    labels: np.ndarray | Lazy,
    validation: tuple[Images, np.ndarray] | None,
    *,
    teacher: Labeller | None = None,
    views: Array | None = None,
    stored: Callable[[], Callable[[int], Array]] | None = None,
    begin: Callable[[Variables], Variables] | None = None,
    hooks: Hooks = NO_HOOKS,
    artefact: Artefact | None = None,
    save_every: int | None = None,
    may_diverge: bool = False,
    show_progress: bool = False,
    what: str = "network",
) -> Trained:
    """Train r fresh networks at once on one set, on JAX's default device.

    Args:
        model: the network.
        recipe: loss, optimiser, length.
        keys: (r,), of initial parameters, batches and augmentations.
        rates: learning rates at their highest, (r,).
        decays: weight decays, (r,); see `Optimizer`.
        images: (N, H, W, C), preprocessed; those that are not in memory are read as updates need them.
        labels: (N, c).
        validation: images (M, H, W, C) and classes (M,); None: nothing is validated, and `Recipe.keep` is `last`.
        teacher: labels each augmented view in place of `labels`, by its logits.
        views: the key of batches and augmentations of all networks, which then differ in their initial parameters
            alone; None: each network has its own.
        stored: makes a reader of the labels of the views of each update, (b, c), which take the place of `labels`; see
            `kip.training.relabel`.
        begin: returns the values to begin with, given fresh ones (stacked, if r > 1); None: the fresh ones.
        hooks: called at each update and epoch.
        artefact: the place where the training is saved, and from which it resumes.
        save_every: updates between two saves; None: a tenth of all.
        may_diverge: whether a network that diverges is scored as one that knows nothing, and not an error.
        show_progress: whether a bar is shown on stderr.
        what: the name of the training, for the bar and for errors.

    Raises:
        NonFiniteError: if a network diverges, unless it may; the step is named.
    """
    runs, many = len(keys), len(keys) > 1
    labelling = (teacher.model, teacher.batch_statistics) if teacher else (None, False)
    objective = Supervised(
        model,
        recipe.loss,
        recipe.temperature,
        recipe.augment,
        *labelling,
        recipe.mix,
        recipe.class_weight,
        stored is not None,
    )
    rule = Rule(
        objective,
        recipe.optimizer,
        recipe.steps,
        Batches(len(images), recipe.batch, recipe.drawn),
        recipe.restart_at,
        devices=1 if many or not recipe.spread else free_devices(),
        average=recipe.average,
    )
    extra = jax.tree.map(jnp.asarray, teacher.variables) if teacher else ()
    data = Batch(on_device(images), labels if isinstance(images, Lazy) else jnp.asarray(labels), extra)
    of_validation = None if validation is None else (on_device(validation[0]), jnp.asarray(validation[1]))
    of_runs: list[Any] = [jnp.asarray(part) if many else jnp.asarray(part)[0] for part in (keys, rates, decays)]
    of_views = of_runs[0]
    if views is not None:
        of_views = jnp.stack([views] * runs) if many else views
    initial = jax.vmap(lambda key: jax.random.fold_in(key, 0)) if many else lambda key: jax.random.fold_in(key, 0)
    variables = fresh(model, initial(of_runs[0]), images.shape[1:])
    learning = rule.begin(variables if begin is None else begin(variables), many=many)
    learning = learning._replace(memory=with_rates(learning.memory, *of_runs[1:]))
    marks = np.linspace(0, recipe.steps, recipe.evaluations + 1).round().astype(int)
    marks[1:] = np.maximum(marks[1:], 1)

    def evaluate(progress: Progress) -> _Best:
        step, best, learning = int(progress.step), progress.owned, progress.learning
        learned = learning.average if recipe.average else learning.variables
        stages = np.flatnonzero(marks[1:] == step)
        scores = np.full(runs, np.nan)
        if of_validation is not None:
            scores = np.atleast_1d(accuracy(model, learned, *of_validation, many=many))
        better = (scores > best.accuracy) | (recipe.keep == "last")
        variables = _choose(jnp.asarray(better) if many else jnp.asarray(better[0]), learned, best.variables)
        curve, loss = best.curve.copy(), best.loss.copy()
        since = max(1, step - marks[stages[0]])
        curve[:, stages], loss[:, stages] = scores[:, None], np.reshape(progress.total, (-1, 1)) / since
        return _Best(variables, np.where(better, scores, best.accuracy), np.where(better, step, best.step), curve, loss)

    empty = np.zeros((runs, recipe.evaluations))
    progress = fit(
        rule,
        learning,
        data,
        of_views,
        extra_at=None if stored is None else stored(),
        marks=frozenset(marks[1:].tolist()),
        at_mark=evaluate,
        owned=_Best(learning.variables, np.full(runs, -1.0), np.zeros(runs, int), empty, empty),
        hooks=hooks,
        artefact=artefact,
        save_every=save_every,
        may_diverge=may_diverge,
        show_progress=show_progress,
        what=what,
    )
    best = progress.owned
    split = [jax.tree.map(lambda leaf, r=r: leaf[r], best.variables) for r in range(runs)] if many else [best.variables]
    return Trained(split, best.accuracy, best.step, best.curve, best.loss)


TEACHER = Recipe("xent", optimizer=Optimizer("adamw", 1e-3, weight_decay=5e-4, schedule="cosine"), evaluations=4)
"""The training of networks on images without augmentation: cross-entropy, AdamW, the best of four evaluations on
validation."""


def train_teacher(
    network: Network,
    images: Images,
    labels: np.ndarray | Lazy,
    validation: tuple[Images, np.ndarray],
    *,
    steps: int,
    rate: float = 1e-3,
    seed: int = 0,
    artefact: Artefact | None = None,
    show_progress: bool = False,
) -> tuple[Labeller, float]:
    """Train a network on natural images, without augmentation, by cross-entropy (AdamW, cosine, the best evaluation).

    It answers to images as they are. The teachers that label augmented views are those of `kip.training.squeeze`.

    Args:
        network: its architecture.
        images: (N, H, W, C), preprocessed.
        labels: (N, c).
        validation: images and classes.
        steps: updates, in batches of 100.
        rate: the learning rate at its highest.
        seed: the seed of initial parameters and batches.
        artefact: the place where the training is saved, and from which it resumes.
        show_progress: whether a bar is shown on stderr.

    Returns:
        The teacher, and its validation accuracy.

    Raises:
        NonFiniteError: if the teacher diverges; it is not saved.
    """
    recipe = dataclasses.replace(TEACHER, steps=steps)
    model = Model(network, labels.shape[1])
    trained = train(
        model,
        recipe,
        rng.key(seed, "teacher", 0)[None],
        np.array([rate]),
        np.array([recipe.optimizer.weight_decay]),
        images,
        labels,
        validation,
        artefact=artefact,
        show_progress=show_progress,
        what=f"teacher {network.label}",
    )
    return Labeller(model, trained.variables[0]), float(trained.validation_accuracy[0])


@jax.jit
def _choose(better: Array, new: Variables, old: Variables) -> Variables:
    """Return the new variables where they are better, () or (r,)."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(jnp.reshape(better, better.shape + (1,) * (a.ndim - better.ndim)), a, b)

    return jax.tree.map(choose, new, old)
