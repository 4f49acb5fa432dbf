"""Training finite networks on a set: one at a time, or many at once that differ in key, learning rate and decay.

Everything that a scheme or protocol varies is a `Recipe`; what a search varies (rate, decay, seed) are arrays, over
which one update of all networks is vectorised. The loop over updates is Python's: XLA runs convolutions inside its own
loops 40 times slower on a CPU (seen in JAX 0.10.2). Only validation images come here, and never test images.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip.config import value
from kip.evaluate.augmentation import Augmentation, augmented
from kip.finite import Model
from kip.finite.networks import Variables

Loss = Literal["mse", "xent", "kl"]
CHUNK = 500
"""Images that are classified at a time."""


@value
class Recipe:
    """How a network is trained."""

    loss: Loss = "mse"
    """`mse`: half the squared error, mean over batch and classes. `xent`: softmax cross-entropy with the argmax of the
    labels. `kl`: KL(softmax(t / T) | softmax(f / T)) with labels t as logits, mean over the batch, not times T^2."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T of `kl`."""
    optimizer: Literal["momentum", "adamw"] = "momentum"
    """SGD with momentum, the decay as L2 of all parameters, biases too; or AdamW, the decay apart from the gradient."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD."""
    schedule: Literal["constant", "cosine", "halfway"] = "cosine"
    """Of the learning rate: to 0 at the end, or (`halfway`) a tenth from the middle on."""
    steps: Annotated[int, Field(ge=1)] = 5000
    """Updates."""
    batch: Annotated[int, Field(ge=1)] = 100
    """Images of an update, drawn in epochs; sets of at most this size are taken whole."""
    augment: Augmentation = "none"
    """Of training images, drawn anew for every update."""
    evaluations: Annotated[int, Field(ge=1)] = 20
    """How often validation accuracy is measured, evenly, the last time at the end."""
    keep: Literal["best", "last"] = "best"
    """Which parameters come back: the best of the evaluations on validation (early stopping), or the last."""


class Trained(NamedTuple):
    """Trained networks; r counts them."""

    variables: list[Variables]
    """Parameters (and running statistics) of each that `Recipe.keep` names."""
    validation_accuracy: np.ndarray
    """Theirs, fractions, (r,)."""
    step: np.ndarray
    """Updates that led to them, (r,)."""
    curve: np.ndarray
    """Validation accuracy at each evaluation, (r, evaluations)."""
    loss: np.ndarray
    """Mean training loss between evaluations, (r, evaluations)."""


class Teacher(NamedTuple):
    """A trained network that labels every augmented view."""

    model: Model
    variables: Variables
    batch_statistics: bool = False
    """Whether its batch normalisation takes the statistics of each batch, and not those of its training."""


class _State(NamedTuple):
    """What an update changes."""

    variables: Variables
    memory: Any
    total: Array


def train(
    model: Model,
    recipe: Recipe,
    keys: Array,
    rates: np.ndarray,
    decays: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    *,
    teacher: Teacher | None = None,
    begin: Callable[[Variables], Variables] | None = None,
) -> Trained:
    """Train r fresh networks at once on one set.

    Args:
        model: the network.
        recipe: loss, optimiser, length.
        keys: (r,), of initial parameters, batches and augmentations.
        rates: learning rates at their highest, (r,). decays: L2 strengths or weight decays, (r,).
        images: (N, H, W, C), preprocessed. labels: (N, c).
        validation: images (M, H, W, C) and classes (M,).
        teacher: labels each augmented view in place of `labels`, by its logits.
        begin: returns the values to begin with, given fresh ones (stacked, if r > 1); None: the fresh ones.
    """
    runs = len(keys)
    labelling = (teacher.model, teacher.batch_statistics) if teacher else None
    parts = _compiled(model, recipe, images.shape, labelling, runs > 1)
    of_teacher = teacher.variables if teacher else {}
    of_run = [_squeezed(jnp.asarray(array)) for array in (keys, rates, decays)]
    seen, targets = jnp.asarray(images), jnp.asarray(labels)
    state, bounds = parts.start(of_run[0]), np.linspace(0, recipe.steps, recipe.evaluations + 1).round().astype(int)
    if begin is not None:
        state = state._replace(variables=begin(state.variables))
    kept, best, at = state.variables, np.full(runs, -1.0), np.zeros(runs, int)
    curve, losses = np.zeros((2, runs, recipe.evaluations))
    for stage, (start, stop) in enumerate(itertools.pairwise(bounds)):
        state = state._replace(total=jnp.zeros_like(state.total))
        for step in range(start, stop):
            state = parts.update(state, *of_run, step, seen, targets, of_teacher)
        found = np.atleast_1d(accuracy(model, state.variables, *validation, many=runs > 1))
        better = (found > best) | (recipe.keep == "last")
        kept = parts.choose(jnp.asarray(better) if runs > 1 else bool(better[0]), state.variables, kept)
        best, at = np.where(better, found, best), np.where(better, stop, at)
        curve[:, stage], losses[:, stage] = found, np.asarray(state.total) / max(1, stop - start)
    split = [jax.tree.map(lambda leaf, r=r: leaf[r], kept) for r in range(runs)] if runs > 1 else [kept]
    return Trained(split, best, at, curve, losses)


class _Parts(NamedTuple):
    """The compiled functions of a training."""

    start: Callable[..., _State]
    update: Callable[..., _State]
    choose: Callable[..., Variables]


@functools.lru_cache(maxsize=16)
def _compiled(
    model: Model, recipe: Recipe, shape: tuple[int, ...], labelling: tuple[Model, bool] | None, many: bool
) -> _Parts:
    transform = optax.trace(recipe.momentum) if recipe.optimizer == "momentum" else optax.scale_by_adam()

    def start(key: Array) -> _State:
        variables = model.init(jax.random.fold_in(key, 0), shape[1:])  # type: ignore[arg-type]
        return _State(variables, transform.init(variables["params"]), jnp.zeros(()))

    def update(
        state: _State, key: Array, rate: Array, decay: Array, step: Array, images: Array, labels: Array, of_teacher: Any
    ) -> _State:
        chosen = _batch(jax.random.fold_in(key, 1), step, len(images), recipe.batch)
        seen, target = images[chosen], labels[chosen]
        seen = augmented(recipe.augment, jax.random.fold_in(jax.random.fold_in(key, 2), step), seen)
        if labelling is not None:
            target = labelling[0].apply(of_teacher, seen, train=labelling[1]).logits
        params = state.variables["params"]

        def loss(params: Any) -> tuple[Array, Variables]:
            outputs = model.apply({**state.variables, "params": params}, seen, train=True)
            return loss_value(recipe, outputs.logits, target), outputs.variables

        (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        if recipe.optimizer == "momentum":
            gradient = jax.tree.map(lambda g, w: g + decay * w, gradient, params)
        direction, memory = transform.update(gradient, state.memory, params)
        if recipe.optimizer == "adamw":
            direction = jax.tree.map(lambda d, w: d + decay * w, direction, params)
        now = rate * _schedule(recipe, step)
        params = jax.tree.map(lambda w, d: w - now * d, params, direction)
        return _State({**moved, "params": params}, memory, state.total + value)

    def choose(better: Array, new: Variables, old: Variables) -> Variables:
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)

    if many:
        over = (0, 0, 0, 0, None, None, None, None)
        return _Parts(jax.jit(jax.vmap(start)), jax.jit(jax.vmap(update, over)), jax.jit(jax.vmap(choose)))
    return _Parts(jax.jit(start), jax.jit(update), jax.jit(choose))


def loss_value(recipe: Recipe, logits: Array, labels: Array) -> Array:
    """Return the loss of logits (N, c) and labels (N, c), as `Recipe.loss` says."""
    if recipe.loss == "mse":
        return 0.5 * jnp.mean((logits - labels) ** 2)
    if recipe.loss == "xent":
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels.argmax(1)).mean()
    target = jax.nn.softmax(labels / recipe.temperature)
    log_ratio = jnp.log(jnp.maximum(target, 1e-30)) - jax.nn.log_softmax(logits / recipe.temperature)
    return jnp.sum(target * log_ratio, axis=1).mean()


def accuracy(
    model: Model,
    variables: Variables,
    images: np.ndarray,
    classes: np.ndarray,
    *,
    batch_statistics: bool = False,
    many: bool = False,
) -> np.ndarray:
    """Return the fraction of images (M, H, W, C) whose largest logit is at their class (M,); NaN is no class.

    Args:
        model: the network. variables: its parameters.
        images: preprocessed. classes: integers.
        batch_statistics: normalise by those of each chunk of `CHUNK` images (batch normalisation only).
        many: `variables` have a leading axis (r,), and so has the result.
    """
    right: Any = 0
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        right += np.asarray(_correct(model, variables, images[part], classes[part], batch_statistics, many))
    return right / len(images)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _correct(model: Model, variables: Any, images: Array, classes: Array, batch_statistics: bool, many: bool) -> Array:
    def count(variables: Variables) -> Array:
        logits = model.apply(variables, images, train=batch_statistics).logits
        return jnp.sum((logits.argmax(1) == classes) & jnp.isfinite(logits).all(1))

    return jax.vmap(count)(variables) if many else count(variables)


def _squeezed(array: Array) -> Array:
    return array[0] if len(array) == 1 else array


def _batch(key: Array, step: Array, count: int, size: int) -> Array:
    """Return the indices of a batch: epoch after epoch in a random order each, what is left of an epoch left out."""
    if count <= size:
        return jnp.arange(count)
    epoch, position = jnp.divmod(step, count // size)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    return jax.lax.dynamic_slice(order, (position * size,), (size,))


def _schedule(recipe: Recipe, step: Array) -> Array:
    """Return the learning rate as a fraction of its highest."""
    done = step / recipe.steps
    if recipe.schedule == "cosine":
        return 0.5 * (1 + jnp.cos(jnp.pi * done))
    return jnp.where(done < 0.5, 1.0, 0.1) if recipe.schedule == "halfway" else jnp.ones(())
