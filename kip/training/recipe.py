"""The recipe of a training as a value: its loss, optimiser, batches and length; and the optax chain of an optimiser.

The learning rate and the weight decay of a chain are arrays in the optimiser's state (`optax.inject_hyperparams`), so
that trainings that differ in them are one compiled update, vectorised over that state.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from kip.config import value
from kip.errors import ConfigError
from kip.training.augment import Augmentation
from kip.training.batches import Drawn
from kip.training.losses import Loss
from kip.training.mix import Mix

Schedule = Literal["constant", "cosine", "warm_cosine", "rise_cosine", "half_cosine", "linear", "halfway"]


@value
class Optimizer:
    """The optimiser of networks."""

    kind: Literal["adam", "sgd", "adamw", "lamb", "adabelief"] = "adam"
    """The update rule. `sgd` has momentum where `momentum` is above 0."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """The learning rate at its highest."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The momentum of `sgd`. 0 has none."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """The weight decay: its product with the parameters, biases too, is added to the gradient (`sgd`, `adam`,
    `adabelief`), or to the direction that the rule makes of it (`adamw`, `lamb`)."""
    schedule: Schedule = "constant"
    """The schedule of the learning rate, which stays (`constant`), falls to 0 at the end as a `cosine` or a line
    (`linear`), to half as the first half of a cosine (`half_cosine`), or to a tenth in the middle (`halfway`).
    `warm_cosine` first rises as a line for a fortieth of the updates. `rise_cosine` rises for half of them and falls to
    a hundredth."""

    def __post_init__(self) -> None:
        if self.kind != "sgd" and self.momentum:
            raise ConfigError(f"momentum with {self.kind}", got=self.momentum, expected="0", remedy="It has its own.")

    @property
    def scheduled(self) -> bool:
        """True if the learning rate depends on the number of updates of the whole training."""
        return self.schedule != "constant"

    def chain(self, steps: int | None = None, *, restart_at: int | None = None) -> optax.GradientTransformation:
        """Return the optax transformation.

            sgd        v <- momentum v + (g + decay w),      w <- w - rate s(k) v
            adamw      w <- w - rate s(k) (adam(g) + decay w)

        s is the schedule and k counts updates from 0. The state holds rate and decay; see `with_rates`.

        Args:
            steps: updates of the whole training; needed by every schedule but `constant`.
            restart_at: the update before which `halfway` lowers the rate and the rule begins anew, as a new optimiser
                does; None lowers the rate in the middle, with the same optimiser.

        Raises:
            ConfigError: if a schedule lacks `steps`, or `restart_at` comes with another one than `halfway`.
        """
        if self.schedule != "constant" and steps is None:
            raise ConfigError(f"schedule {self.schedule!r}", got="no number of updates", expected="a known length")
        if restart_at is not None and self.schedule != "halfway":
            raise ConfigError("restart_at", got=f"schedule {self.schedule!r}", expected="schedule 'halfway'")

        def make(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
            decay = optax.add_decayed_weights(weight_decay)
            rule = {
                "sgd": lambda: optax.trace(self.momentum) if self.momentum else optax.identity(),
                "adam": optax.scale_by_adam,
                "adamw": optax.scale_by_adam,
                "lamb": lambda: optax.scale_by_adam(eps=1e-6),
                "adabelief": optax.scale_by_belief,
            }[self.kind]()
            if restart_at is not None:
                rule = _restart(rule, restart_at)
            parts = [rule, decay] if self.kind in ("adamw", "lamb") else [decay, rule]
            if self.kind == "lamb":
                parts.append(optax.scale_by_trust_ratio())
            if self.schedule != "constant":
                fraction = self.schedule
                parts.append(optax.scale_by_schedule(lambda k: rate_fraction(fraction, k, steps or 1, restart_at)))
            return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))

        return optax.inject_hyperparams(make)(learning_rate=self.learning_rate, weight_decay=self.weight_decay)


@value
class Recipe:
    """The training of a network on a set."""

    loss: Loss = "mse"
    """The loss that the training minimises; see `kip.training.losses`."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """The temperature T of the loss `kl`."""
    optimizer: Optimizer = Optimizer("sgd", 0.01, momentum=0.9, schedule="cosine")
    """The optimiser. A training may replace the learning rate and the weight decay by its own."""
    restart_at: Annotated[int, Field(ge=1)] | None = None
    """The update before which the schedule `halfway` falls, with a new optimiser. None means the middle, with the same
    optimiser."""
    steps: Annotated[int, Field(ge=1)] = 5000
    """The number of updates."""
    batch: Annotated[int, Field(ge=1)] = 100
    """The number of images of an update. Sets of at most this size are taken whole."""
    drawn: Drawn = "whole_epochs"
    """The way in which batches are drawn; see `kip.training.batches`."""
    augment: Augmentation = "none"
    """The augmentation of training images, drawn anew for every update."""
    mix: Mix = "none"
    """The mixing of the images of an update with each other, after their augmentation; see `kip.training.mix`."""
    class_weight: Annotated[float, Field(ge=0)] = 0.0
    """The weight of the cross-entropy at the set's classes, which is added where a teacher gives the labels."""
    spread: bool = False
    """Spread the images of an update over the devices of the machine, as many as divide their number, where one network
    is trained. Results differ from those of one device in their last digits."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The decay of the moving average of the network's variables, which is validated and kept in their place. 0 keeps
    the variables themselves."""
    evaluations: Annotated[int, Field(ge=1)] = 20
    """The number of evaluations of the validation accuracy, evenly spread, the last one at the end."""
    keep: Literal["best", "last"] = "best"
    """The parameters that are kept: the `best` of the evaluations on validation (early stopping), or the `last`."""

    def chain(self) -> optax.GradientTransformation:
        """Return the optax transformation of the whole training."""
        return self.optimizer.chain(self.steps, restart_at=self.restart_at)


def with_rates(state: Any, learning_rate: Any, weight_decay: Any) -> Any:
    """Return the state of a chain of `Optimizer.chain` with other rates; scalars, or arrays under `jax.vmap`."""
    rates = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    old = state.hyperparams
    return state._replace(hyperparams={name: jnp.asarray(rates[name], old[name].dtype) for name in old})


def rate_fraction(schedule: Schedule, step: Any, steps: int, drop_at: int | None = None) -> Any:
    """Return the learning rate before update `step`, as a fraction of its highest.

    Args:
        schedule: its name.
        step: updates made, 0 to `steps` - 1.
        steps: updates of the whole training.
        drop_at: the update at which `halfway` falls; None: the middle.
    """
    done = step / steps
    if schedule == "cosine":
        return 0.5 * (1 + jnp.cos(jnp.pi * done))
    if schedule == "half_cosine":
        return 0.5 * (1 + jnp.cos(jnp.pi * done / 2))
    if schedule == "warm_cosine":
        rise = steps / 40
        falling = 0.5 * (1 + jnp.cos(jnp.pi * (step - rise) / (steps - rise)))
        return jnp.where(step < rise, (step + 1) / (rise + 1), falling)
    if schedule == "rise_cosine":
        return jnp.where(done < 0.5, 2 * done, 0.01 + 0.99 * 0.5 * (1 + jnp.cos(jnp.pi * (2 * done - 1))))
    if schedule == "linear":
        return 1.0 - done
    if schedule == "halfway":
        return jnp.where(done < 0.5 if drop_at is None else step < drop_at, 1.0, 0.1)
    return jnp.ones(())


def _restart(rule: optax.GradientTransformation, at: int) -> optax.GradientTransformation:
    """Return a rule whose state begins anew before update `at`."""

    def init(params: Any) -> Any:
        return jnp.zeros((), jnp.int32), rule.init(params)

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count, memory = state
        memory = jax.tree.map(lambda new, old: jnp.where(count == at, new, old), rule.init(params), memory)
        direction, memory = rule.update(gradient, memory, params)
        return direction, (count + 1, memory)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]
