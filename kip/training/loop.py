"""The loop over updates: batches, hooks, a progress bar, saving and resuming. Every training of a network is this loop.

The loop is Python's, and each update is compiled: XLA runs convolutions inside its own loops 40 times slower on a CPU
(seen in JAX 0.10.2). Trainings that differ in their keys and rates alone are vectorised over a leading axis r of their
state where that pays: on accelerators, and not on CPUs, where grouped convolutions cost several times as much.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Collection, Generator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from kip.progress import BOARD, progress_bar
from kip.storage.images import Lazy
from kip.training.batches import Batches
from kip.training.devices import spread
from kip.training.prefetch import GatheredBatch, gather_batches
from kip.training.resume import Artefact, check_finite
from kip.training.update import Batch, Learning, Objective, begin, update

IN_FLIGHT = 4
"""The number of updates under way before the first is waited for, where batches come from the host."""
SAVES = 10
"""The number of times that a training saves itself by default."""


class Hooks(NamedTuple):
    """Functions that are called while a network learns. Arrays are the device's, with a leading axis for r networks.

    After a kill, the updates since the last save are made again, and hooks are called for them again: a hook files its
    results under the update or the epoch, and never appends them.

    Attributes:
        on_update: called with the updates made before this one, the indices of its batch (b,), and the loss of each of
            its examples before the update (b,).
        on_epoch: called with the epochs made, 0 before the first update, and the network's variables.
    """

    on_update: Callable[[int, Array, Array], Any] | None = None
    on_epoch: Callable[[int, Any], Any] | None = None


NO_HOOKS = Hooks()


class Chained(Protocol):
    """A maker of an optimiser's transformation; hashable. `kip.training.recipe.Optimizer` is one."""

    @property
    def scheduled(self) -> bool:
        """True if the rate depends on the number of updates of the whole training."""
        ...

    def chain(self, steps: int | None = None, *, restart_at: int | None = None) -> optax.GradientTransformation:
        """Return the transformation; see `Optimizer.chain`."""
        ...


class Rule(NamedTuple):
    """The rule of an update; hashable, since it identifies a compiled update.

    Attributes:
        objective: the objective that is minimised, hashable.
        optimizer: the optimiser.
        steps: updates of the whole training.
        batches: the batches of the updates.
        restart_at: see `Optimizer.chain`.
        devices: the number of devices over which the images of an update are spread; see `devices.spread`.
        average: the decay of the network's moving average, 0 for none; see `kip.training.update.update`.
    """

    objective: Objective
    optimizer: Chained
    steps: int
    batches: Batches
    restart_at: int | None = None
    devices: int = 1
    average: float = 0.0

    def chain(self) -> optax.GradientTransformation:
        """Return the optimiser's transformation."""
        return self.optimizer.chain(self.steps, restart_at=self.restart_at)

    def begin(self, variables: Any, *, many: bool = False) -> Learning:
        """Return a network before its first update; with `many`, variables have a leading axis r."""
        start = functools.partial(begin, self.chain(), average=self.average)
        return (jax.vmap(start) if many else start)(variables)


class Progress(NamedTuple):
    """The progress of a training, with all that is saved.

    Attributes:
        step: updates made, int64.
        learning: the network or networks.
        total: the sum of the updates' losses since the last mark, () or (r,).
        owned: arrays that the caller keeps, a pytree of constant shapes.
    """

    step: Any
    learning: Learning
    total: Any
    owned: Any


def fit(
    rule: Rule,
    learning: Learning,
    data: Batch,
    keys: Array,
    *,
    extra_at: Callable[[int], Any] | None = None,
    marks: Collection[int] = (),
    at_mark: Callable[[Progress], Any] = lambda progress: progress.owned,
    owned: Any = (),
    hooks: Hooks = NO_HOOKS,
    artefact: Artefact | None = None,
    save_every: int | None = None,
    may_diverge: bool = False,
    show_progress: bool = False,
    what: str = "network",
) -> Progress:
    """Make all updates of a training, or the rest of them after a kill.

    Args:
        rule: the objective, the optimiser and the batches.
        learning: the network before its first update, of `Rule.begin`.
        data: the whole set, images (N, H, W, C) and labels (N, c), of which each update sees a batch; `extra` as it is.
            A `kip.storage.images.Lazy` of images is read on the host, ahead of the device (`kip.training.prefetch`).
        keys: the keys of batches and of the objective's draws, (); or (r,), and the state has a leading axis r.
        extra_at: returns the batch's `extra` of each update, in place of that of `data`; None: it never changes.
        marks: updates after which `at_mark` is called.
        at_mark: returns the new `owned`; `total` begins again at 0 afterwards.
        owned: the arrays that the caller keeps, before the first update.
        hooks: called at each update and epoch.
        artefact: the place where the training is saved, and from which it resumes.
        save_every: updates between two saves; None: a tenth of all.
        may_diverge: whether a network may become NaN or infinite, because its caller scores it so.
        show_progress: whether a bar is shown on stderr, also outside of other work that shows one.
        what: the name of the training, for the bar and for errors.

    Returns:
        The state after the last update. Its bits do not depend on whether the training was killed in between, if it
        goes on with the same libraries on hardware of the same kind.

    Raises:
        NonFiniteError: if parameters are not finite at a mark, a save or the end; they are not saved.
    """
    many = keys.ndim > 0
    # A training of another length is the same update, unless the length enters a schedule.
    known_as = rule if rule.optimizer.scheduled else rule._replace(steps=1)
    progress = Progress(np.asarray(0), learning, jnp.zeros(keys.shape), owned)
    if artefact is not None and (saved := artefact.load(_on_host(progress))) is not None:
        progress = saved._replace(learning=jax.tree.map(jnp.asarray, saved.learning), total=jnp.asarray(saved.total))
    every = save_every or -(-rule.steps // SAVES)
    if hooks.on_epoch is not None and progress.step == 0:
        hooks.on_epoch(0, progress.learning.variables)
    first = int(progress.step)
    with (
        progress_bar(rule.steps, what, shown=show_progress or BOARD.is_going_on, initial=first) as bar,
        contextlib.closing(_updates(known_as, many, data, extra_at, keys, range(first, rule.steps))) as updates,
    ):
        for step, one_update in enumerate(updates, first):
            learning, total, indices, losses = one_update(progress.learning, progress.total)
            done = step + 1
            progress = progress._replace(step=np.asarray(done), learning=learning, total=total)
            if hooks.on_update is not None:
                hooks.on_update(step, indices, losses)
            if hooks.on_epoch is not None and done % rule.batches.of_epoch == 0:
                hooks.on_epoch(done // rule.batches.of_epoch, learning.variables)
            saving = artefact is not None and done % every == 0
            if not may_diverge and (done in marks or saving or done == rule.steps):
                check_finite(learning.variables, step=done, what=what)
            if done in marks:
                progress = progress._replace(owned=at_mark(progress), total=jnp.zeros(keys.shape))
            if artefact is not None and (saving or done == rule.steps):
                artefact.save(_on_host(progress))
            bar.update()
    return progress


def _updates(
    rule: Rule, many: bool, data: Batch, extra_at: Callable[[int], Any] | None, keys: Array, steps: range
) -> Generator[Callable[..., Any]]:
    """Yield each update as a function of (learning, total); see `compiled_update` for its results."""

    def at(step: int) -> Batch:
        return data if extra_at is None else data._replace(extra=extra_at(step))

    if not isinstance(data.images, Lazy):
        on_device = compiled_update(rule, many)
        for step in steps:
            length = rule.batches.length(step)
            yield lambda learning, total, step=step, length=length: on_device(
                learning, total, at(step), keys, step, length
            )
        return
    given = compiled_update_of_batch(rule, many)
    of_batches = (jax.vmap(_key_of_batches) if many else _key_of_batches)(keys)

    under_way: deque[Array] = deque()

    def update_of(
        batch: GatheredBatch, step: int, learning: Learning, total: Array
    ) -> tuple[Learning, Array, Any, Array]:
        learning, total, losses = given(learning, total, Batch(batch.images, batch.labels, at(step).extra), keys, step)
        under_way.append(losses)
        if len(under_way) > IN_FLIGHT:  # else JAX would be given batches faster than it lets go of them
            under_way.popleft().block_until_ready()
        return learning, total, batch.indices, losses

    with contextlib.closing(gather_batches(data.images, data.labels, rule.batches, of_batches, steps)) as batches:
        for step, batch in zip(steps, batches):
            yield functools.partial(update_of, batch, step)


def _key_of_batches(key: Array) -> Array:
    return jax.random.fold_in(key, 1)


@functools.lru_cache(maxsize=32)
def compiled_update_of_batch(rule: Rule, many: bool) -> Callable[..., tuple[Learning, Array, Array]]:
    """Return the compiled update of (learning, total, batch, key, step).

    It returns the network, the total with this update's loss added, and the loss of each of the batch's examples. With
    `many`, learning, total, the batch's images and labels, and the key have a leading axis r, and so have the results.
    """
    chain = rule.chain()

    def one_update(
        learning: Learning, total: Array, batch: Batch, key: Array, step: Array
    ) -> tuple[Learning, Array, Array]:
        return _of_batch(rule, chain, learning, total, batch, key, step)

    return jax.jit(jax.vmap(one_update, (0, 0, Batch(0, 0, None), 0, None)) if many else one_update)


@functools.lru_cache(maxsize=32)
def compiled_update(rule: Rule, many: bool) -> Callable[..., tuple[Learning, Array, Array, Array]]:
    """Return the compiled update of (learning, total, data, key, step, length).

    It returns the network, the total with this update's loss added, the indices of the batch (b,), and the loss of each
    of its examples (b,). With `many`, learning, total and key have a leading axis r, and so have the results.
    """
    chain = rule.chain()

    def one_update(
        learning: Learning, total: Array, data: Batch, key: Array, step: Array, length: int
    ) -> tuple[Learning, Array, Array, Array]:
        indices = rule.batches.indices(_key_of_batches(key), step, length)
        batch = Batch(data.images[indices], jax.tree.map(lambda part: part[indices], data.labels), data.extra)
        learning, total, losses = _of_batch(rule, chain, learning, total, batch, key, step)
        return learning, total, indices, losses

    def many_updates(learning: Learning, total: Array, data: Batch, keys: Array, step: Array, length: int) -> Any:
        single = functools.partial(one_update, length=length)
        return jax.vmap(single, (0, 0, None, 0, None))(learning, total, data, keys, step)

    return jax.jit(many_updates if many else one_update, static_argnums=5)


@functools.lru_cache(maxsize=32)
def compiled_learning(objective: Objective, optimizer: Chained) -> Callable[[Learning, Batch], Learning]:
    """Return the compiled update of (network, batch) for methods that move a network by one step at a time.

    The objective draws nothing, and the optimiser's rate is constant.
    """
    chain = optimizer.chain()

    def learn(learning: Learning, batch: Batch) -> Learning:
        return update(objective, chain, learning, batch, None)[0]

    return jax.jit(learn)


def _of_batch(
    rule: Rule,
    chain: optax.GradientTransformation,
    learning: Learning,
    total: Array,
    batch: Batch,
    key: Array,
    step: Array,
) -> tuple[Learning, Array, Array]:
    """Return the network after an update on a batch, the total with its loss added, and the examples' losses, (b,)."""
    images, labels = spread((batch.images, batch.labels), rule.devices)
    drawing = jax.random.fold_in(jax.random.fold_in(key, 2), step)
    batch = batch._replace(images=images, labels=labels)
    learning, evaluated = update(rule.objective, chain, learning, batch, drawing, rule.average)
    return learning, total + evaluated.loss, evaluated.losses


def _on_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
