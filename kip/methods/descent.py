"""One step of an optimiser on what a method learns: images, and labels or whatever else, as a dict of arrays.

A method gives its optimiser as a function of its configuration, `rule(config)`, and keeps the state alone: one compiled
step serves a whole run, and a checkpoint holds nothing but arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import optax

from kip.precision import AnyArray

Config = TypeVar("Config")
Rule = Callable[[Config], optax.GradientTransformation]
Parameters = dict[str, AnyArray]
"""What an optimiser moves, by name: `images`, `labels`, `rates`, ..."""


def begin(rule: Rule[Config], config: Config, learned: Parameters) -> optax.OptState:
    """Return the optimiser's state before its first step, a pytree of arrays."""
    return rule(config).init(learned)


def descend(
    rule: Rule[Config], config: Config, gradient: Parameters, state: optax.OptState, learned: Parameters
) -> tuple[Parameters, optax.OptState]:
    """Return what is learned after one step, and the optimiser's state; both stay on their device.

    Args:
        rule: makes the optimiser; a function of a module, since it is part of what the compiled step is known by.
        config: its argument, hashable.
        gradient: the gradient of the loss, with the keys and shapes of `learned`.
        state: the optimiser's, of `begin` or of the step before.
        learned: what is learned, by name, before the step.
    """
    return _step(gradient, state, learned, rule=rule, config=config)


@partial(jax.jit, static_argnames=("rule", "config"))
def _step(
    gradient: Parameters, state: optax.OptState, learned: Parameters, *, rule: Rule[Config], config: Config
) -> tuple[Parameters, optax.OptState]:
    updates, state = rule(config).update(gradient, state, learned)
    return optax.apply_updates(learned, updates), state
