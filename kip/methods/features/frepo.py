"""FRePo, neural feature regression with pooling: images and labels learned under KRR on features of trained networks.

Each step draws a network of the pool, and the set follows, by LAMB, the gradient of

    L = 1/(2m) |Y_t - K_ts (K_ss + lam I)^-1 Y_s|^2  -  mean_n min(y_n(1) - y_n(2), 1/C),

K the inner products of the network's features, lam = 1e-6 tr(K_ss)/n, and y(1), y(2) the largest and second largest
entry of a label: the last term asks of each label a margin of 1/C. Then the network learns from the set for a step
(`kip.methods.features.pool`).

Where a mirror image has the same class, the regression sees the set and its mirror images, which have the same labels;
the networks of the pool learn the set alone. Labels start at (one-hot - 1/C) / sqrt(C/10); targets are one-hot - 1/C.

A set is judged by fresh networks without normalisation. They learn the augmented set by Adam on the squared error, and
their variables are averaged meanwhile.

Mirror images, normalisation before each convolution but the first, and its momentum are the public code's. That code
also averages the variables of the networks that judge a set, with the decay 0.995, and then measures their accuracy
without the average; `evaluation_average` chooses, and averages by default. In the public code the first networks of the
pool are fresh and only their counters differ; here they have learned the natural images for 1 to `max_updates` updates.

Reference: Zhou, Nezhadarya, Ba 2022, "Dataset Distillation using Neural Feature Regression"; public code, `frepo.py`
and `script/distill.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field
from typing_extensions import final

from kip import krr
from kip.config import value
from kip.errors import ConfigError
from kip.judges import TrainedNetworks
from kip.methods.contract import Metrics
from kip.methods.descent import Parameters, begin, descend
from kip.methods.features import feature_krr, pool
from kip.methods.features.pool import Optimizer, Pool, Slots
from kip.methods.problem import Owned, Problem, State
from kip.methods.targets import TargetMethod
from kip.networks.model import Model, Network
from kip.precision import AnyArray
from kip.storage.artefacts import Store
from kip.training.augment import Augmentation, are_mirrored

MIRRORED = 500
"""The largest number of images of a set that stands beside its mirror images by default."""


@final
@value
class FRePo(TargetMethod[Slots, Slots]):
    """Neural feature regression with pooling: learn images and labels."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class."""
    learn_labels: bool = True
    """Learn labels with the images. Off keeps the labels of step 0."""
    mirror: bool | None = None
    """Add the mirror images of the set to the regression. None adds them to at most 500 images with colours, where a
    mirror image has the same class; the public code adds them on every data set."""
    network: Network = Network("FRePo-D3", w_std=1.0)
    """The networks of the pool. By default their weights have the deviation that Flax draws, as in the public code."""
    pool: Pool = Pool()
    """The pool of networks that give the features."""
    steps: Annotated[int, Field(ge=1)] = 500_000
    """The largest number of updates."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """The learning rate of LAMB: the change of the images in a step, relative to their norm."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """The schedule of the learning rate: `cosine` falls to a tenth at `steps`, and `constant` does not fall."""
    target_batch: Annotated[int, Field(ge=1)] | None = 1024
    """The number of target images of each step. None means the whole train set."""
    ridge: krr.Ridge = krr.Ridge()
    """The regulariser of the KRR."""
    evaluation_network: Network = Network("FRePo-D3", norm="none", w_std=1.0)
    """The network that is trained on the set to judge it; as in the public code, it has no batch normalisation."""
    evaluation_optimizer: Optimizer = Optimizer()
    """The optimiser of the network that judges the set."""
    evaluation_steps: Annotated[int, Field(ge=1)] = 1000
    """The number of updates of the judge's network, in full batches up to 500 images. The public code takes 1000 for
    MNIST and CIFAR-10; for CIFAR-100, 1000, 2000 and 5000 with 1, 10 and 50 images per class."""
    evaluation_augment: Augmentation = "frepo"
    """The augmentation of the set at each update of the judge's network. Flips are left out where a mirror image has
    another class."""
    evaluation_average: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """The decay of the moving average of the judge's variables, which classifies in their place. 0 means that the
    variables of the last update classify."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks that are trained for the accuracy on test images."""
    name: Literal["frepo"] = "frepo"

    @property
    def judge(self) -> TrainedNetworks:
        """Fresh networks, trained on the augmented set by Adam on the squared error, their variables averaged."""
        return TrainedNetworks(
            self.evaluation_network,
            self.evaluation_optimizer,
            self.evaluation_steps,
            augment=self.evaluation_augment,
            average=self.evaluation_average,
            validation_networks=self.validation_networks,
            test_networks=self.test_networks,
        )

    @property
    def schedule_ends(self) -> bool:
        """A cosine ends at `steps`."""
        return self.schedule == "cosine"

    def prepare(self, problem: Problem, store: Store) -> Slots:
        """Return a pool that has learned from the natural images, one network after the other.

        Raises:
            ConfigError: if mirror images are asked for, of a data set where they have other classes.
            ShapeError: if the images are too small for a network.
        """
        self._mirrors(problem)
        state = self._natural(problem)
        Model(self.evaluation_network, problem.num_classes).check_images(*state.inputs.shape[1:3])
        return pool.start(self.pool, _model(self, problem), state.inputs, state.labels, seed=problem.seed, store=store)

    def init(self, problem: Problem, prepared: Slots) -> State[Slots]:
        """Return step 0: class-balanced natural images, centred labels, and the pool."""
        state = self._natural(problem)
        return state._replace(optimizer=begin(_optimizer, self, _parameters(self, state))).with_owned(prepared)

    def _natural(self, problem: Problem) -> State[None]:
        state = problem.natural_support(self.images_per_class)
        return state._replace(labels=(state.labels / (problem.num_classes / 10) ** 0.5).astype(np.float32))

    def _mirrors(self, problem: Problem) -> bool:
        """Return True if the regression takes mirror images too."""
        if self.mirror and not problem.mirror_keeps_class:
            raise ConfigError(
                "mirror",
                got="True",
                expected="a data set where a mirror image has the same class",
                remedy="Leave it at None, or at False.",
            )
        if self.mirror is None:
            few = self.images_per_class * problem.num_classes <= MIRRORED
            return few and are_mirrored(problem.mirror_keeps_class, problem.pixels.shape[-1])
        return self.mirror

    def step(self, problem: Problem, prepared: Slots, state: State[Slots]) -> tuple[State[Slots], Metrics]:
        """Return the state after one update of the set and one of a network, with the loss before it.

        Raises:
            NonFiniteError, NotPositiveDefiniteError: as `kip.methods.features.feature_krr.gradient`.
        """
        model = _model(self, problem)
        index = problem.draw("pool", self.pool.size, step=state.step)
        target = problem.target_batch(self.target_batch, step=state.step)
        loss_and_grads = feature_krr.gradient(
            model,
            [state.owned[index].variables],
            state.inputs,
            state.labels,
            target.images,
            target.labels,
            ridge=self.ridge,
            reduction="sum",
            mirror=self._mirrors(problem),
        )
        count = len(target.images)
        gradient: Parameters = {"images": loss_and_grads.images / count}
        margin, to_margin = _margin(state.labels)
        if self.learn_labels:
            gradient["labels"] = loss_and_grads.labels / count + np.asarray(to_margin)
        before = _parameters(self, state)
        after, optimizer = descend(_optimizer, self, gradient, state.optimizer, before)
        new_state = state._replace(
            step=state.step + 1,
            inputs=after["images"],
            labels=after.get("labels", state.labels),
            optimizer=optimizer,
        )
        slots = pool.advance(
            self.pool, model, state.owned, index, new_state.inputs, new_state.labels, seed=problem.seed
        )
        metrics = {
            "loss": loss_and_grads.loss / count + (float(margin) if self.learn_labels else 0.0),
            "batch_accuracy": float(np.mean(loss_and_grads.predictions.argmax(axis=1) == target.labels.argmax(axis=1))),
            "condition": loss_and_grads.condition,
        }
        return new_state._replace(owned=slots), metrics


def margin_loss(labels: AnyArray) -> Array:
    """Return -mean_n min(y_n(1) - y_n(2), 1/C) of labels (n, C)."""
    largest = jax.lax.top_k(labels, 2)[0]
    return -jnp.mean(jnp.minimum(largest[:, 0] - largest[:, 1], 1 / labels.shape[1]))


_margin = jax.jit(jax.value_and_grad(margin_loss))


def _model(config: FRePo, problem: Problem) -> Model:
    return Model(config.network, problem.num_classes)


def _parameters(config: FRePo, state: State[Owned]) -> Parameters:
    """Return the arrays that the optimiser moves, by name."""
    return {"images": state.inputs, **({"labels": state.labels} if config.learn_labels else {})}


def _optimizer(config: FRePo) -> optax.GradientTransformation:
    if config.schedule == "constant":
        return optax.lamb(config.learning_rate)
    return optax.lamb(optax.cosine_decay_schedule(config.learning_rate, config.steps, alpha=0.1))
