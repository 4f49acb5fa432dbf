"""MTT, matching training trajectories: images on which a student goes where experts went on natural images.

A step draws an expert and one of its epochs t. A student begins with the expert's parameters theta_t, takes N steps of
gradient descent on the learned images with the learned rate r,

    theta <- theta - r grad CE(theta; A(x_b), y_b),

A one augmentation of DSA a batch, and images and r follow, by SGD with momentum, the gradient of

    L = |theta_N - theta*|^2 / |theta_t - theta*|^2,          theta* = the expert's parameters `expert_epochs` later,

by `kip.training.unrolled`. `gradient` says which one:

- `exact`: that of L.
- `truncated`: TESLA's. It drops how an image moves the parameters that later steps begin from, v_i = v_N in
  `kip.training.unrolled`, and so is exact for the last step alone. The identity that TESLA is derived from holds where
  the parameters of the steps are constants; its memory, all theta_i, is what the exact gradient needs too.

The networks that judge a set are trained under the protocol `MTT`, with the set's own rate r. The public code keeps the
checkpoint that is best on test; here it is chosen on validation images.

A student's batches are cut from random orders of the set. Where their size does not divide the set, the smaller batch
is the first of its order, as the public code takes it.

Reference: Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories", algorithm 1; public code,
`distill.py`. Cui et al. 2023, "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory" (TESLA).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

from kip.config import value
from kip.errors import ConfigError, NonFiniteError
from kip.methods.contract import Metrics
from kip.methods.descent import begin, descend
from kip.methods.matching.base import Matching, check_finite
from kip.methods.matching.experts import Experts, Trajectories, trajectories
from kip.methods.problem import Problem, State
from kip.rng import generator, key
from kip.storage.artefacts import Store
from kip.training.augment import strategy_for
from kip.training.protocols import PROTOCOLS, Protocol
from kip.training.unrolled import Draw, Learned, Student, pulled_back, unroll


@value
class MTT(Matching):
    """Trajectory matching: learn images on which a student goes where experts went."""

    experts: Experts = Experts()
    """The experts."""
    expert_epochs: Annotated[int, Field(ge=1)] = 2
    """Epochs of an expert that a student is to make."""
    first_start: Annotated[int, Field(ge=0)] = 0
    """The first epoch that a student may begin at."""
    last_start: Annotated[int, Field(ge=1)] = 2
    """The epoch before which it begins (exclusive)."""
    student_steps: Annotated[int, Field(ge=1)] = 50
    """N."""
    student_batch: Annotated[int, Field(ge=1)] | None = None
    """Learned images of a student's step; None: all of them."""
    gradient: Literal["exact", "truncated"] = "exact"
    """Of the loss; see above."""
    siamese: bool = True
    """Whether the images that a student sees are augmented by DSA."""
    steps: Annotated[int, Field(ge=1)] = 5000
    """Updates of the images at the most."""
    learning_rate: Annotated[float, Field(gt=0)] = 100.0
    """SGD's, for the images."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """SGD's, for images and the student's rate."""
    student_rate: Annotated[float, Field(gt=0)] = 0.01
    """r, before it is learned."""
    rate_learning_rate: Annotated[float, Field(ge=0)] = 1e-7
    """SGD's, for the student's rate; 0 leaves it as it is."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Weight of the past in the exported moving average of the images (FTD); 0 exports the images themselves."""
    protocol: Protocol = PROTOCOLS["MTT"]
    """How networks are trained that judge the set. `MTT` trains them at the set's own rate."""
    name: Literal["mtt"] = "mtt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.first_start < self.last_start <= self.experts.epochs - self.expert_epochs + 1:
            raise ConfigError(
                "first_start and last_start",
                got=f"{self.first_start} and {self.last_start}",
                expected=f"first_start < last_start <= {self.experts.epochs - self.expert_epochs + 1}, "
                "experts.epochs - expert_epochs + 1",
            )

    def prepare(self, problem: Problem, store: Store) -> Trajectories:
        """Return the experts' trajectories, made or found.

        Raises:
            ConfigError: if the network has batch normalisation.
            ShapeError: if the images are too small for it.
            NonFiniteError: if an expert diverges.
        """
        super().prepare(problem, store)
        return trajectories(self.experts, self.model(problem), problem, store)

    def init(self, problem: Problem, prepared: Trajectories) -> State:
        """Return step 0: natural images or noise, and the first rate."""
        return self._begun(self.first_images(problem))

    def _begun(self, state: State) -> State:
        """Return step 0 with the optimiser, the rate, and the images that are averaged."""
        state = state._replace(learning_rates=np.array([self.student_rate], np.float32))
        if self.average:
            state = state._replace(owned=state.inputs)
        return state._replace(optimizer=begin(_optimizer, self, self._learned(state)))

    def step(self, problem: Problem, prepared: Trajectories, state: State) -> tuple[State, Metrics]:
        """Return the state after one update, with the loss before it and the student's rate.

        Raises:
            NonFiniteError: if the loss or what is learned is not finite, or the student's rate is not above zero.
        """
        student, learned, draws = self._student(problem), self._learned(state), self._draws(problem, state)
        seen = Learned(self._images(state), self._student_labels(state, learned), learned["rates"])
        loss, gradient = matched(
            student, seen, draws, *self._pair(problem, prepared, state), exact=self.gradient == "exact"
        )
        if not np.isfinite(loss):
            raise NonFiniteError("the matching loss is NaN or infinite", remedy="Lower the learning rates.")
        metrics = {"loss": float(loss), "student_rate": float(learned["rates"][0])}
        if self._skips(float(loss)):
            return state._replace(step=state.step + 1), metrics
        by_name = {**gradient._asdict(), **self.by_learned(problem, state, gradient.images)}
        after, optimizer = descend(
            _optimizer, self, {name: by_name[name] for name in learned}, state.optimizer, learned
        )
        after = self.with_images(problem, state, after)
        check_finite(float(loss), after)
        if not float(after["rates"][0]) > 0:
            raise NonFiniteError("the student's rate is not above zero", remedy="Lower rate_learning_rate.")
        return self._moved(state, after)._replace(step=state.step + 1, optimizer=optimizer), metrics

    def _student(self, problem: Problem) -> Student:
        return Student(
            self.model(problem), "soft_xent", strategy_for(problem.mirror_keeps_class) if self.siamese else "none"
        )

    def _student_labels(self, state: State, learned: dict[str, Any]) -> Any:
        return np.eye(state.labels.shape[1], dtype=np.float32)[state.class_index]

    def _starts(self, step: int) -> tuple[int, int]:
        """Return the first epoch that a student may begin at in a step, and the one before which it begins."""
        return self.first_start, self.last_start

    def _skips(self, loss: float) -> bool:
        """Say whether nothing is updated at such a loss."""
        return False

    def _pair(self, problem: Problem, prepared: Trajectories, state: State) -> tuple[Any, Any]:
        """Return where a student begins and where it should go."""
        draw = generator(problem.seed, "expert of step", state.step)
        trajectory = prepared[int(draw.integers(self.experts.count))]
        begins = int(draw.integers(*self._starts(state.step)))
        at = lambda epoch: jax.tree.map(lambda leaf: jnp.asarray(leaf[epoch]), trajectory)  # noqa: E731
        return at(begins), at(begins + self.expert_epochs)

    def _draws(self, problem: Problem, state: State) -> list[Draw]:
        """Return what each of the student's steps sees: batches of random orders of the set."""
        count = len(state.inputs)
        size = min(self.student_batch or count, count)
        draw, batches = generator(problem.seed, "student batches", state.step), []
        while len(batches) < self.student_steps:
            order = draw.permutation(count)
            ends = range(count % size or size, count + 1, size)
            batches += [order[max(0, end - size) : end] for end in ends]
        keys = jax.random.split(key(problem.seed, "student views", state.step), self.student_steps)
        return [Draw(indices, view) for indices, view in zip(batches, keys)]

    def more_rules(self) -> dict[str, optax.GradientTransformation]:
        """Return the optimisers of what is learned besides images and rate, by name."""
        return {}

    def _learned(self, state: State) -> dict[str, Any]:
        images = {"images": self._images(state)} if self.latents is None else self.learned(state)
        return {**images, "rates": state.learning_rates}

    def _images(self, state: State) -> Any:
        """Return the images that students see, before they are averaged."""
        return state.owned if self.average else state.inputs

    def _moved(self, state: State, after: dict[str, Any]) -> State:
        images = after["images"]
        state = state._replace(learning_rates=after["rates"], latents=after.get("latents"))
        if self.average:
            kept = self.average * jnp.asarray(state.inputs) + (1 - self.average) * images
            return state._replace(inputs=kept, owned=images)
        return state._replace(inputs=images)


def matched(
    student: Student, learned: Learned, draws: list[Draw], begins: Any, wanted: Any, *, exact: bool
) -> tuple[Any, Learned]:
    """Return L = |theta_N - theta*|^2 / |theta_0 - theta*|^2 and its gradient by images, labels and rate.

    Args:
        student: the loss of a student's step.
        learned: images, labels and the rate.
        draws: what each step sees.
        begins: theta_0.
        wanted: theta*.
        exact: see `MTT.gradient`.
    """
    learned = Learned(*(jnp.asarray(part) for part in learned))
    path = unroll(student, begins, learned, draws)
    loss, cotangent = _distance(path[-1], begins, wanted)
    return loss, pulled_back(student, path, learned, draws, cotangent, through_parameters=exact)


@jax.jit
def _distance(params: Any, begins: Any, wanted: Any) -> tuple[Any, Any]:
    def squares(a: Any, b: Any) -> Any:
        return sum(jnp.sum((x - y) ** 2) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))

    return jax.value_and_grad(lambda params: squares(params, wanted) / squares(begins, wanted))(params)


def _optimizer(config: MTT) -> optax.GradientTransformation:
    """Return one rule for what is learned, each part with its own rate, and labels with their own momentum."""
    rules = {
        "images" if config.latents is None else "latents": optax.sgd(config.learning_rate, momentum=config.momentum),
        "rates": optax.sgd(config.rate_learning_rate, momentum=config.momentum),
        **config.more_rules(),
    }
    return optax.multi_transform(rules, {name: name for name in rules})  # type: ignore[return-value]
