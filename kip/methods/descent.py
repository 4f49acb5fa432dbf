"""One step of an optimiser on the parameters of a set: images, labels and others, as a dict of arrays.

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
"""The arrays that an optimiser moves, by name: `images`, `labels`, `rates`, ..."""


def begin(rule: Rule[Config], config: Config, parameters: Parameters) -> optax.OptState:
    """Return the optimiser's state before its first step, a pytree of arrays."""
    return rule(config).init(parameters)


def descend(
    rule: Rule[Config], config: Config, gradient: Parameters, state: optax.OptState, parameters: Parameters
) -> tuple[Parameters, optax.OptState]:
    """Return the parameters after one step, and the optimiser's state; both stay on their device.

    Args:
        rule: makes the optimiser; a function of a module, since it identifies the compiled step.
        config: its argument, hashable.
        gradient: the gradient of the loss, with the keys and shapes of `parameters`.
        state: the optimiser's, of `begin` or of the step before.
        parameters: those before the step.
    """
    return _step(gradient, state, parameters, rule=rule, config=config)


@partial(jax.jit, static_argnames=("rule", "config"))
def _step(
    gradient: Parameters, state: optax.OptState, parameters: Parameters, *, rule: Rule[Config], config: Config
) -> tuple[Parameters, optax.OptState]:
    updates, state = rule(config).update(gradient, state, parameters)
    return optax.apply_updates(parameters, updates), state
