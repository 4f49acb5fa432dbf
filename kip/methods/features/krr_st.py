"""KRR-ST, kernel ridge regression on self-supervised targets: a small set for pre-training, learned without labels.

A teacher g is trained on the train set by self-supervision (`kip.training.self_supervised`). Images X_s and their
target representations Y_s start at random train images and g(X_s), and follow the gradient of

    L = mean (g(X_t) - K_ts (K_ss + lam I)^-1 Y_s)^2,    K = F F^T + 1,

over target batches, F the features of a network drawn from the pool; then that network learns Y_s from X_s for a step
(`kip.methods.features.pool`). AdamW, its learning rate falling linearly to 0.

Where sources differ: the mean over all entries is the public code's, equation 4 has half the sum; lam = 1e-6 tr(K_ss),
not divided by n and without gradient, and the constant feature, are the public code's. Target batches are drawn
uniformly, without a look at classes, and taken as they are; the public code crops and flips them.

The features are those of test mode: with batch normalisation they rest on running statistics of the set's images, and
those of few learned images are soon far from real ones'. For sets of tens of images, take networks without
normalisation.

A set is judged by networks pre-trained on it, by a linear probe of their features. `labels` of the exported set are
Y_s, and not labels of classes.

Reference: Lee et al. 2024, "Self-Supervised Dataset Distillation for Transfer Learning", Algorithm 1; public code.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
import optax
from pydantic import Field
from typing_extensions import final

from kip import krr
from kip.config import value
from kip.judges import Probe
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.descent import begin, descend
from kip.methods.features import feature_krr, pool
from kip.methods.features.pool import Optimizer, Pool, Slots
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network, Variables
from kip.rng import generator
from kip.storage.artefacts import Store
from kip.training import self_supervised as teacher
from kip.training.self_supervised import Teacher

SGD = Optimizer("sgd", 0.1, momentum=0.9, weight_decay=1e-3)


class Prepared(NamedTuple):
    """The teacher, its labels and the pool, made once before the steps.

    Attributes:
        teacher: the variables of the self-supervised network.
        labels: its representations of the images that the set starts from, (n, d).
        pool: networks that have learned the labels.
    """

    teacher: Variables
    labels: np.ndarray
    pool: Slots


@final
@value
class KRRST(Method[Prepared, Slots]):
    """Kernel ridge regression on self-supervised targets: learn images and target representations."""

    images: Annotated[int, Field(ge=1)] = 1000
    """The number of images of the set, m, which are drawn without a look at classes."""
    teacher: Teacher = Teacher()
    """The self-supervised model whose representations are the targets."""
    network: Network = Network("ConvNet-D3", norm="batch", w_std=3**-0.5)
    """The networks of the pool, and those that are pre-trained on the set. By default their weights have PyTorch's
    initial deviation."""
    pool: Pool = Pool(max_updates=1000, optimizer=SGD, loss="mean")
    """The pool of networks that give the features."""
    steps: Annotated[int, Field(ge=1)] = 160_000
    """The largest number of updates."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The learning rate of AdamW. The paper takes 1e-3 for CIFAR-100 and 1e-5 for the rest; the public README, 1e-4 and
    1e-5."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """The weight decay of AdamW."""
    schedule: Literal["constant", "linear"] = "linear"
    """The schedule of the learning rate: `linear` falls to 0 at `steps`, and `constant` does not fall."""
    target_batch: Annotated[int, Field(ge=1)] | None = 1024
    """The number of target images of each step. None means the whole train set."""
    ridge: krr.Ridge = krr.Ridge(1e-6, "trace_sum")
    """The regulariser of the KRR."""
    pretraining: Optimizer = SGD
    """The optimiser of the networks that are pre-trained on the set."""
    pretraining_steps: Annotated[int, Field(ge=1)] = 4000
    """The number of updates of the pre-training. The paper takes 1000 epochs of batches of 256."""
    probe_images: Annotated[int, Field(ge=1)] = 2000
    """The number of labelled train images that the linear probe learns from."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are pre-trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 3
    """The number of networks that are pre-trained for the accuracy on test images."""
    name: Literal["krr_st"] = "krr_st"

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Representations: the teacher's, and after the steps the learned ones."""
        return "representations"

    @property
    def judge(self) -> Probe:
        """Networks that are pre-trained on the set, by a linear probe of their features."""
        return Probe(
            self.network,
            self.pretraining,
            self.pretraining_steps,
            self.pool.loss,
            self.probe_images,
            validation_networks=self.validation_networks,
            test_networks=self.test_networks,
        )

    @property
    def needs(self) -> Needs:
        """Nothing of a data set's classes, which the method does not use."""
        return Needs(whole_set=self.target_batch is None)

    @property
    def schedule_ends(self) -> bool:
        """A linear fall ends at `steps`."""
        return self.schedule == "linear"

    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return the teacher's variables, trained or found, and a pool that has learned from random train images.

        Raises: as `kip.training.self_supervised.train`.
        """
        model, variables = teacher.train(self.teacher, problem.inputs, seed=problem.seed, store=store)
        chosen = self._choose_images(problem)
        labels = teacher.represent(model, variables, problem.inputs[chosen])
        learner = Model(self.network, labels.shape[1])
        slots = pool.start(self.pool, learner, problem.inputs[chosen], labels, seed=problem.seed, store=store)
        return Prepared(variables, labels, slots)

    def init(self, problem: Problem, prepared: Prepared) -> State[Slots]:
        """Return step 0: random train images with their representations, and the pool."""
        chosen = self._choose_images(problem)
        images = problem.inputs[chosen]
        return State(
            step=0,
            inputs=images,
            labels=prepared.labels,
            class_index=problem.labels[chosen],
            statistics=problem.transform.statistics(problem.pixels[chosen]),
            optimizer=begin(_optimizer, self, {"images": images, "labels": prepared.labels}),
            owned=prepared.pool,
        )

    def step(self, problem: Problem, prepared: Prepared, state: State[Slots]) -> tuple[State[Slots], Metrics]:
        """Return the state after one update of the set and one of a network, with the loss before it.

        Raises:
            NonFiniteError, NotPositiveDefiniteError: as `kip.methods.features.feature_krr.gradient`.
        """
        learner = Model(self.network, state.labels.shape[1])
        index = problem.draw("pool", self.pool.size, step=state.step)
        target = problem.target_batch(self.target_batch, step=state.step, balanced=False)
        guide = Model(self.teacher.network, self.teacher.embedding)
        wanted = teacher.represent(guide, prepared.teacher, target.images)
        slots = state.owned
        loss_and_grads = feature_krr.gradient(
            learner,
            [slots[index].variables],
            state.inputs,
            state.labels,
            target.images,
            wanted,
            ridge=self.ridge,
            reduction="mean",
            bias=1.0,
        )
        # krr's loss has a half that the public code's has not.
        gradient = {"images": 2 * loss_and_grads.images, "labels": 2 * loss_and_grads.labels}
        before = {"images": state.inputs, "labels": state.labels}
        after, optimizer = descend(_optimizer, self, gradient, state.optimizer, before)
        new_state = state._replace(
            step=state.step + 1,
            inputs=after["images"],
            labels=after["labels"],
            optimizer=optimizer,
        )
        slots = pool.advance(self.pool, learner, slots, index, new_state.inputs, new_state.labels, seed=problem.seed)
        metrics = {"loss": 2 * loss_and_grads.loss, "condition": loss_and_grads.condition}
        return new_state._replace(owned=slots), metrics

    def _choose_images(self, problem: Problem) -> np.ndarray:
        """Return the train images that the set starts from, drawn without a look at classes."""
        return generator(problem.seed, "support").choice(len(problem.inputs), self.images, replace=False)


def _optimizer(config: KRRST) -> optax.GradientTransformation:
    if config.schedule == "constant":
        return optax.adamw(config.learning_rate, weight_decay=config.weight_decay)
    rate = optax.linear_schedule(config.learning_rate, 0.0, config.steps)
    return optax.adamw(rate, weight_decay=config.weight_decay)
