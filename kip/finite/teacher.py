"""The self-supervised target model g of KRR-ST: a network trained without labels by Barlow Twins.

Two views of a batch, a and b, give embeddings z (N, e), standardised over the batch, and

    C = z_a^T z_b / N,    L = sum_i (1 - C_ii)^2 + trade_off * sum_{i != j} C_ij^2.

The representation g(x) is what the network's last layer sees; that layer is the projector and is left out afterwards.
(The paper's projector has three layers.) A view is a crop of the image padded by `pad` pixels, flipped with p = 1/2
where `flip`, its contrast and brightness changed by up to `jitter`.

Training is a function of images, configuration and seed, and is kept in the cache folder, because a resumed run needs
the same teacher again.

Reference: Zbontar et al. 2021, "Barlow Twins", equation 1; Lee et al. 2024 (KRR-ST), section 4.1.
"""

from __future__ import annotations

import hashlib
import json
import logging
from functools import partial
from typing import Annotated, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip import config
from kip.config import value
from kip.errors import NonFiniteError, OutputError
from kip.files import atomic_write
from kip.finite.feature_krr import features
from kip.finite.networks import Model, Network
from kip.preprocess.cache import default_dir
from kip.rng import generator

VERSION = 1
"""Raised whenever training changes what it gives."""
log = logging.getLogger(__name__)


@value
class Teacher:
    """A network trained by Barlow Twins."""

    network: Network = Network("ResNet18")
    """The network; its features are the representation."""
    embedding: Annotated[int, Field(ge=2)] = 2048
    """e, the projector's outputs."""
    steps: Annotated[int, Field(ge=1)] = 100_000
    """Updates."""
    batch: Annotated[int, Field(ge=2)] = 256
    """Images of each, of which there are two views."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Adam's, falling to 0 as a cosine."""
    trade_off: Annotated[float, Field(gt=0)] = 0.005
    """Weight of the entries of C off the diagonal."""
    pad: Annotated[int, Field(ge=0)] = 4
    """Largest shift of a view, pixels."""
    flip: bool = True
    """Whether views may be mirrored; not for digits and letters."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Largest change of contrast, as a factor 1 +- jitter, and of brightness, in deviations of the train set."""


def train(teacher: Teacher, images: np.ndarray, *, seed: int) -> tuple[Model, Any]:
    """Return the network and its variables, from the cache if it was trained before.

    Args:
        teacher: its configuration.
        images: (N, H, W, C), preprocessed.
        seed: the root seed.

    Raises:
        NonFiniteError: if the loss is not finite.
    """
    model = Model(teacher.network, teacher.embedding)
    variables = model.init(jax.random.key(int(generator(seed, "teacher").integers(2**31))), images.shape[1:])  # type: ignore[arg-type]
    path = default_dir() / f"teacher-{_digest(teacher, images, seed)}.npz"
    leaves, structure = jax.tree.flatten(variables)
    try:
        with np.load(path, allow_pickle=False) as file:
            return model, jax.tree.unflatten(structure, [file[f"leaf{i}"] for i in range(len(leaves))])
    except FileNotFoundError:
        pass
    except Exception as error:  # what NumPy and zipfile raise on a damaged file has no end
        log.warning("the cache file %s cannot be read (%s); training the teacher again", path, error)
    state = _optimizer(teacher).init(variables["params"])
    for step in range(teacher.steps):
        draw = generator(seed, "teacher batch", step)
        batch = images[draw.choice(len(images), min(teacher.batch, len(images)), replace=False)]
        views = [view(batch, teacher, draw) for _ in range(2)]
        variables, state, loss = _step(variables, state, *views, model=model, teacher=teacher)
        if step % 100 == 99 and not np.isfinite(loss):
            raise NonFiniteError("the teacher's loss holds NaN or infinity", remedy="Lower teacher.learning_rate.")
    arrays = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(variables))}
    try:
        atomic_write(path, lambda file: np.savez(file, **cast(Any, arrays)))
    except OutputError as error:
        log.warning("the teacher is not cached: %s", error)
    return model, jax.tree.map(np.asarray, variables)


def represent(model: Model, variables: Any, images: np.ndarray) -> np.ndarray:
    """Return g(X), (N, d), float32, with running statistics."""
    return features(model, variables, images).astype(np.float32)


def view(images: np.ndarray, teacher: Teacher, draw: np.random.Generator) -> np.ndarray:
    """Return a random view of each image (N, H, W, C), of the same shape; what a crop uncovers has the least value."""
    _, height, width, _ = images.shape
    pad = teacher.pad
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=images.min())
    rows, columns = (draw.integers(2 * pad + 1, size=len(images)) for _ in range(2))
    down, right = rows[:, None] + np.arange(height), columns[:, None] + np.arange(width)
    if teacher.flip:
        right = np.where(draw.random(len(images))[:, None] < 0.5, right[:, ::-1], right)
    cropped = padded[np.arange(len(images))[:, None, None], down[:, :, None], right[:, None, :]]
    contrast, brightness = (
        teacher.jitter * draw.uniform(-1, 1, (len(images), 1, 1, 1)).astype(np.float32) for _ in range(2)
    )
    return cropped * (1 + contrast) + brightness


def barlow_twins(z_a: Array, z_b: Array, trade_off: float) -> Array:
    """Return L of two batches of embeddings (N, e)."""

    def standardised(z: Array) -> Array:
        return (z - z.mean(axis=0)) / jnp.sqrt(z.var(axis=0) + 1e-5)

    correlation = standardised(z_a).T @ standardised(z_b) / len(z_a)
    diagonal = jnp.diagonal(correlation)
    on = jnp.sum((1 - diagonal) ** 2)
    return on + trade_off * (jnp.sum(correlation**2) - jnp.sum(diagonal**2))


def _optimizer(teacher: Teacher) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(teacher.learning_rate, teacher.steps))


@partial(jax.jit, static_argnames=("model", "teacher"))
def _step(variables: Any, state: Any, a: Array, b: Array, *, model: Model, teacher: Teacher) -> tuple[Any, Any, Array]:
    def loss(parameters: Any) -> tuple[Array, Any]:
        first = model.apply({**variables, "params": parameters}, a, train=True)
        second = model.apply({**first.variables, "params": parameters}, b, train=True)
        return barlow_twins(first.logits, second.logits, teacher.trade_off), second.variables

    (found, moved), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    updates, state = _optimizer(teacher).update(gradient, state)
    return {**moved, "params": optax.apply_updates(variables["params"], updates)}, state, found


def _digest(teacher: Teacher, images: np.ndarray, seed: int) -> str:
    text = json.dumps([VERSION, config.to_dict(teacher), seed, images.shape], sort_keys=True)
    content = hashlib.sha256(text.encode())
    content.update(np.ascontiguousarray(images).data)
    return content.hexdigest()
