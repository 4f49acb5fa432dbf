"""KRR-ST, kernel ridge regression on self-supervised targets: a small set for pre-training, learned without labels.

A teacher g is trained on the train set by self-supervision (`kip.finite.teacher`). Images X_s and their target
representations Y_s start at random train images and g(X_s), and follow the gradient of

    L = mean (g(X_t) - K_ts (K_ss + lam I)^-1 Y_s)^2,    K = F F^T + 1,

over target batches, F the features of a network drawn from the pool; then that network learns Y_s from X_s for a step
(`kip.finite.pool`). AdamW, its learning rate falling linearly to 0.

Where sources differ: the mean over all entries is the public code's, equation 4 has half the sum; lam = 1e-6 tr(K_ss),
not divided by n and without gradient, and the constant feature, are the public code's. Target batches are taken as
they are; the public code crops and flips them.

The features are those of test mode: with batch normalisation they rest on running statistics of the set's images, and
those of few learned images are soon far from real ones'. For sets of tens of images, take networks without
normalisation.

A set is judged by networks pre-trained on it, by a linear probe of their features. `labels` of the exported set are
Y_s, and not labels of classes.

Reference: Lee et al. 2024, "Self-Supervised Dataset Distillation for Transfer Learning", Algorithm 1; public code.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
from pydantic import Field

from kip import krr
from kip.config import value
from kip.distill.descent import begin, descend
from kip.distill.problem import Problem, State
from kip.finite import feature_krr, pool, probe, regression, teacher
from kip.finite.networks import Model, Network
from kip.finite.pool import Optimizer, Pool
from kip.finite.teacher import Teacher
from kip.rng import generator

SGD = Optimizer("sgd", 0.1, momentum=0.9, weight_decay=1e-3)


@value
class KRRST:
    """Kernel ridge regression on self-supervised targets: learn images and target representations."""

    images: Annotated[int, Field(ge=1)] = 1000
    """m, images of the set, drawn without a look at classes."""
    teacher: Teacher = Teacher()
    """The self-supervised target model."""
    network: Network = Network("ConvNet-D3", norm="batch", w_std=3**-0.5)
    """The pool's networks, and those that are pre-trained on the set; by default with PyTorch's initial deviation."""
    pool: Pool = Pool(max_updates=1000, optimizer=SGD, loss="mean")
    """The pool."""
    steps: Annotated[int, Field(ge=1)] = 160_000
    """Updates at the most."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """AdamW's. The paper: 1e-3 for CIFAR-100, 1e-5 for the rest; the public README: 1e-4 and 1e-5."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's."""
    schedule: Literal["constant", "linear"] = "linear"
    """Of the learning rate; `linear` falls to 0 at `steps`."""
    target_batch: Annotated[int, Field(ge=1)] | None = 1024
    """Target images of each step; None means the whole train set."""
    ridge: krr.Ridge = krr.Ridge(1e-6, "trace_sum")
    """Regulariser of the KRR."""
    pretraining: Optimizer = SGD
    """Of networks that are pre-trained on the set."""
    pretraining_steps: Annotated[int, Field(ge=1)] = 4000
    """Their updates. The paper: 1000 epochs of batches of 256."""
    probe_images: Annotated[int, Field(ge=1)] = 2000
    """Labelled train images that the linear probe learns from."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """Networks pre-trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 3
    """Networks pre-trained for the accuracy on test images."""
    name: Literal["krr_st"] = "krr_st"

    @property
    def kernels(self) -> tuple[()]:
        """None: the set is made for training networks."""
        return ()

    @property
    def label(self) -> str:
        """The pool's network, for titles."""
        return self.network.label


def init(config: KRRST, problem: Problem) -> State:
    """Return step 0: random train images with their representations, and a pool that has learned from them.

    Trains the teacher, or finds it in the cache folder. Raises what `kip.finite.teacher.train` raises.
    """
    chosen = generator(problem.seed, "support").choice(len(problem.inputs), config.images, replace=False)
    images = problem.inputs[chosen]
    model, variables = teacher.train(config.teacher, problem.inputs, seed=problem.seed)
    labels = teacher.represent(model, variables, images)
    learner = Model(config.network, labels.shape[1])
    slots = pool.start(config.pool, learner, images, labels, seed=problem.seed)
    return State(
        step=0,
        images=images,
        labels=labels,
        class_index=problem.labels[chosen],
        statistics=problem.transform.statistics(problem.pixels[chosen]),
        optimizer=begin(_optimizer, config, {"images": images, "labels": labels}),
        owned={"pool": slots, "teacher": jax.tree.map(np.asarray, variables)},
    )


def step(config: KRRST, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """Return the state after one update of the set and one of a network, with the loss before it.

    Raises:
        NonFiniteError, NotPositiveDefiniteError: as `kip.finite.feature_krr.gradient`.
    """
    learner = Model(config.network, state.labels.shape[1])
    index = problem.draw("pool", config.pool.size, step=state.step)
    target = problem.target_batch(config.target_batch, step=state.step)
    guide = Model(config.teacher.network, config.teacher.embedding)
    wanted = teacher.represent(guide, state.owned["teacher"], target.images)
    slots = state.owned["pool"]
    found = feature_krr.gradient(
        learner, [slots[index].variables], state.images, state.labels, target.images, wanted,
        ridge=config.ridge, reduction="mean", bias=True,
    )  # fmt: skip
    # krr's loss has a half that the public code's has not.
    gradient = {"images": 2 * found.images, "labels": 2 * found.labels}
    before = {"images": state.images, "labels": state.labels}
    learned, optimizer = descend(_optimizer, config, gradient, state.optimizer, before)
    moved = state._replace(step=state.step + 1, optimizer=optimizer, **learned)
    slots = pool.advance(config.pool, learner, slots, index, moved.images, moved.labels, seed=problem.seed)
    metrics = {"loss": 2 * found.loss, "condition": found.condition}
    return moved._replace(owned={**state.owned, "pool": slots}), metrics


def accuracies(
    config: KRRST,
    support: State,
    inputs: np.ndarray,
    classes: np.ndarray,
    *,
    networks: int,
    seed: int,
    train: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return the accuracy on `inputs` of linear probes of fresh networks, pre-trained on a set, (networks,)."""
    model = Model(config.network, support.labels.shape[1])
    results = []
    for counter in range(networks):
        variables = pretrained(config, support.images, support.labels, key=(seed, "deployed", counter))
        results.append(
            probe.linear_probe(model, variables, *train, inputs, classes, count=config.probe_images, seed=seed)
        )
    return np.array(results)


def pretrained(config: KRRST, images: np.ndarray, labels: np.ndarray, *, key: tuple[int, str, int]) -> Any:
    """Return the variables of a fresh network that has learned representations (n, d) of images (n, H, W, C)."""
    model = Model(config.network, labels.shape[1])
    return regression.train(
        model, config.pretraining, images, labels, config.pretraining_steps, key=key, loss=config.pool.loss
    )


def _optimizer(config: KRRST) -> optax.GradientTransformation:
    rate: Any = config.learning_rate
    if config.schedule == "linear":
        rate = optax.linear_schedule(config.learning_rate, 0.0, config.steps)
    return optax.adamw(rate, weight_decay=config.weight_decay)
