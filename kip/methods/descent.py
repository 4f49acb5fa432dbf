"""One step of an optimiser on what a method learns: images, and labels or whatever else, as a dict of arrays.

A method gives its optimiser as a function of its configuration, `rule(config)`, and keeps the state alone: one compiled
step serves a whole run, and a checkpoint holds nothing but arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import optax

from kip.methods.problem import State

Config = TypeVar("Config")
Rule = Callable[[Config], optax.GradientTransformation]
Learned = dict[str, Any]


def begin(rule: Rule[Config], config: Config, learned: Learned) -> Any:
    """Return the optimiser's state before its first step, a pytree of arrays."""
    return rule(config).init(learned)


def descend(rule: Rule[Config], config: Config, gradient: Learned, state: Any, learned: Learned) -> tuple[Learned, Any]:
    """Return what is learned after one step, and the optimiser's state; both stay on their device.

    Args:
        rule: makes the optimiser; a function of a module, since it is part of what the compiled step is known by.
        config: its argument, hashable.
        gradient: the gradient of the loss, with the keys and shapes of `learned`.
        state: the optimiser's, of `begin` or of the step before.
        learned: what is learned, by name, before the step.
    """
    return _step(gradient, state, learned, rule=rule, config=config)


def of_regression(state: State, *, labels: bool, scale: bool) -> Learned:
    """Return what methods of kernel ridge regression learn: images, and where asked labels and the scale of Platt."""
    learned = {"images": state.inputs}
    if labels:
        learned["labels"] = state.labels
    if scale:
        learned["scale"] = state.owned["scale"]
    return learned


def descended(
    rule: Rule[Config], config: Config, state: State, gradient: Learned, *, labels: bool, scale: bool
) -> State:
    """Return a state after one step on what `of_regression` learns of it.

    Args:
        rule: makes the optimiser.
        config: its argument.
        state: before the step.
        gradient: by `images`, `labels` and `scale`; those that are not learned are not looked at.
        labels: whether labels are learned.
        scale: whether the scale is, which is in `state.owned`.
    """
    before = of_regression(state, labels=labels, scale=scale)
    learned, optimizer = descend(rule, config, {name: gradient[name] for name in before}, state.optimizer, before)
    owned = {"scale": learned.pop("scale")} if scale else state.owned
    return state._replace(
        step=state.step + 1, inputs=learned["images"], labels=learned.get("labels", state.labels), optimizer=optimizer,
        owned=owned,
    )  # fmt: skip


@partial(jax.jit, static_argnames=("rule", "config"))
def _step(gradient: Any, state: Any, learned: Any, *, rule: Rule[Any], config: Any) -> tuple[Any, Any]:
    updates, state = rule(config).update(gradient, state, learned)
    return optax.apply_updates(learned, updates), state
