"""Benchmark of a network's update: how fast ConvNet-D3 trains here, beside XLA's own convolutions, and what takes time.

Both ways take turns in one process, on the same random images, each update as the loop of `kip.training.loop` makes it.
On accelerators both are the same program.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kip.networks import Model, Network
from kip.networks.layers import convolution, plain_convolution
from kip.training.augment import Augmentation, augment_images
from kip.training.batches import Batches
from kip.training.loop import Rule, compiled_update
from kip.training.recipe import Optimizer
from kip.training.supervised import Supervised
from kip.training.update import Batch

AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "dsa")
IMAGES = 512
"""Images of the set that the batches are drawn from."""
BATCH = 128
"""Images of an update, if nothing else is said."""
CLASSES = 10


class Update(NamedTuple):
    """An update of one network under one augmentation.

    Attributes:
        width: channels of its layers.
        augment: how images are varied.
        seconds: of an update, the median.
        plain_s: the same by XLA's convolutions alone.
        ratio: the median over turns of the second through the first.
        gigaflops: arithmetic of the convolutions of an update, forward and backward, 10^9 operations.
        parts: seconds of parts of an update, each compiled by itself: `convolutions, forward`, `convolutions, backward`
            (the derivatives with respect to kernels, and to the inputs of all layers but the first), `augmentation`
            and `optimiser`. `rest` is what is left: normalisation, ReLU, pooling, loss, and drawing the batch. It is
            below 0 where parts take longer by themselves than they do together.
    """

    width: int
    augment: str
    seconds: float
    plain_s: float
    ratio: float
    gigaflops: float
    parts: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """The fraction of the update that each part takes."""
        return {name: seconds / self.seconds for name, seconds in self.parts.items()}


def measure(widths: Sequence[int], image: tuple[int, int, int], batch: int, repeats: int) -> Iterator[Update]:
    """Yield what an update of ConvNet-D3 costs, by SGD with momentum, for each width and augmentation.

    Args:
        widths: channels of the layers.
        image: (H, W, C).
        batch: images of an update.
        repeats: turns of both ways, after one that compiles.
    """
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((max(IMAGES, batch), *image)), jnp.float32)
    labels = jax.nn.one_hot(jnp.asarray(rng.integers(CLASSES, size=len(images))), CLASSES)
    for width in widths:
        model, plain = (Model(Network("ConvNet-D3", width=width), CLASSES, plain=plain) for plain in (False, True))
        variables = model.init(jax.random.key(0), image)
        convolutions, flops = _convolutions(model, variables, images[:batch])
        shared = convolutions | {"optimiser": _optimiser(variables["params"])}
        for augment in AUGMENTATIONS:
            vary = jax.jit(functools.partial(augment_images, augment))
            keys = iter(jax.random.split(jax.random.key(1), repeats + 1))
            works: dict[str, Callable[[], Any]] = {
                "update": _update(model, variables, augment, Batch(images, labels), batch),
                "plain": _update(plain, variables, augment, Batch(images, labels), batch),
                **shared,
                "augmentation": lambda keys=keys, vary=vary: vary(next(keys), images[:batch]),
            }  # fmt: skip
            turns: dict[str, list[float]] = {name: [] for name in works}
            for turn in range(repeats + 1):
                for name, work in works.items():
                    begun = time.perf_counter()
                    jax.block_until_ready(work())
                    if turn:  # the first one compiles
                        turns[name].append(time.perf_counter() - begun)
            seconds = {name: float(np.median(times)) for name, times in turns.items()}
            parts = {
                "convolutions, forward": seconds["forward"],
                "convolutions, backward": seconds["both"] - seconds["forward"],
                "augmentation": seconds["augmentation"],
                "optimiser": seconds["optimiser"],
            }
            parts["rest"] = seconds["update"] - sum(parts.values())
            ratio = float(np.median(np.array(turns["plain"]) / np.array(turns["update"])))
            yield Update(width, augment, seconds["update"], seconds["plain"], ratio, flops / 1e9, parts)


def table(updates: Sequence[Update]) -> str:
    """Return the costs as text."""
    heading = f"{'width':>5} {'augment':8}{'updates/s':>10}{'GFLOP/s':>9}{'plain, updates/s':>18}{'ratio':>7}"
    lines = [heading]
    for row in updates:
        lines.append(
            f"{row.width:5} {row.augment:8}{1 / row.seconds:10.2f}{row.gigaflops / row.seconds:9.1f}"
            f"{1 / row.plain_s:18.2f}{row.ratio:7.2f}"
        )
        lines += [
            f"{'':6}{name:28}{1e3 * row.parts[name]:9.1f} ms{100 * share:7.1f}%" for name, share in row.shares.items()
        ]
    return "\n".join([*lines, "ratio: the time by XLA's convolutions alone through kip's."])


def _update(model: Model, variables: Any, augment: Augmentation, data: Batch, batch: int) -> Callable[[], Any]:
    """Return one update of a training, as the loop makes it."""
    optimizer = Optimizer("sgd", 0.01, momentum=0.9)
    rule = Rule(
        Supervised(model, "soft_xent", augment=augment), optimizer, 1, Batches(len(data.images), batch, "draws")
    )
    learning, key, steps = rule.begin(variables), jax.random.key(2), iter(range(1 << 30))
    compiled = compiled_update(rule, False)
    return lambda: compiled(learning, jnp.zeros(()), data, key, next(steps), batch)[0]


def _convolutions(model: Model, variables: Any, images: Any) -> tuple[dict[str, Callable[[], Any]], int]:
    """Return the convolutions of an update, in the parts in which a network takes a batch, and their arithmetic."""
    convolve = convolution if jax.default_backend() == "cpu" else plain_convolution
    pieces = model._pieces(images)
    _, inputs = model.observe(variables, pieces[0])
    layers = [(x, variables["params"][name]["kernel"]) for name, x in inputs.items() if name.startswith("Conv_")]

    def forward(layers: Any) -> Any:
        return [convolve(x, kernel, "SAME") for x, kernel in layers]

    def both(layers: Any) -> Any:
        (first, kernel), *rest = layers
        outputs, pull_back = jax.vjp(lambda kernel, rest: forward([(first, kernel), *rest]), kernel, rest)
        return pull_back(outputs)

    def repeated(work: Callable[[Any], Any]) -> Callable[[], Any]:
        compiled = jax.jit(work)
        return lambda: [compiled(layers) for _ in pieces]

    # An output has f H W numbers of k k C products and sums each; each derivative takes as many.
    flops = [2 * kernel.size * len(images) * x.shape[1] * x.shape[2] for x, kernel in layers]
    return {"forward": repeated(forward), "both": repeated(both)}, 3 * sum(flops) - flops[0]


def _optimiser(params: Any) -> Callable[[], Any]:
    chain = Optimizer("sgd", 0.01, momentum=0.9).chain()
    memory = chain.init(params)

    @jax.jit
    def move(params: Any, memory: Any) -> Any:
        direction, memory = chain.update(params, memory, params)
        return optax.apply_updates(params, direction), memory

    return lambda: move(params, memory)
