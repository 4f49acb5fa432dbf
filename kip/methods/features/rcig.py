"""RCIG, reparameterised convexified implicit gradients: images and labels learned through a solved student.

The student of a set (X_s, Y_s) of n images is a network of a pool, linearised at its parameters w. The part of its
outputs that its last dense layer adds, h(x) W with the last hidden features h (n, d), is solved by KRR; what it learns
are tangents t of all other parameters, from 0:

    o(x) = (df_w/dw)(x) t,     K = h(X_s) h(X_s)^T,     A = K + lam I,     alpha = A^-1 (Y_s - o(X_s)),
    predictions   o(x) + h(x) h(X_s)^T alpha,           lam = decay n
    inner loss    l(t, S) = lam/(2 n c) (<Y_s - o(X_s), alpha> + |t|^2)

l is the least value, over W, of (1/2 |Y_s - predictions|^2 + lam/2 (|W|^2 + |t|^2)) / (n c): a convex quadratic in t.
A step draws a network of the pool and takes the gradient of the outer loss

    L(t, S) = cross-entropy of softmax(e^s predictions(X_t))  -  mean_i min(y_i(1) - y_i(2), 1/(2C))

at the student's t(S), y(1) and y(2) the largest entries of a label, s learned. With g = dL/dt and H = d2l/dt2,

    dL/dS = (direct) dL/dS  -  (implicit) (d2l/dS dt) H^-1 g.

t comes from steps of Adam, and v = H^-1 g from steps of Adam on 1/2 v.Hv - g.v. Since l is quadratic, v.Hv / 2 is l at
v with labels 0. Both learning rates adapt (`kip.methods.features.rates`). Then the network learns the set for a few
updates, and the moving average of the set is what is validated and exported.

Where the paper and the public code leave a choice, this follows the code: predictions without the network's own
outputs, the clipped implicit gradient, the margin of labels, the search for the first rates. It departs from omissions
of the code: there, tangents of the last layer move by their raw gradient and take part in H, and the network
moves on by its optimiser's momentum while the tangents are learned.

`kip.methods.features.hypergradient` has the student and its gradient.

Reference: Loo, Hasani, Lechner, Rus 2023, "Dataset Distillation with Convexified Implicit Gradients"; public code,
`algorithms.py` and `configs_final/depth_3.txt`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import numpy as np
import optax
from jax import Array
from pydantic import Field
from typing_extensions import TypedDict, final

from kip import krr
from kip.config import to_dict, value
from kip.errors import NonFiniteError
from kip.judges import TrainedNetworks
from kip.methods.checks import refuse_own
from kip.methods.contract import Metrics
from kip.methods.descent import Parameters, begin, descend
from kip.methods.features import pool
from kip.methods.features.hypergradient import (
    Hypergradient,
    Scalar,
    Student,
    hypergradient,
    inverse_product,
    learn,
    outer_gradients,
)
from kip.methods.features.pool import Optimizer, Pool, Slots
from kip.methods.features.rates import Rate, find_rate, first, watch
from kip.methods.problem import Problem, State
from kip.methods.targets import TargetMethod
from kip.networks.model import Model, Network, Variables
from kip.precision import AnyArray
from kip.storage.artefacts import Store, digest
from kip.training.augment import are_mirrored

FIRST_INNER_RATE, FIRST_SOLVER_RATE = 1e-5, 5e-5
"""The rates at which the search for the first learning rates begins."""


class Prepared(NamedTuple):
    """The pool and the first learning rates, made once before the steps.

    Attributes:
        pool: networks that have learned the natural images.
        inner_rate: the first learning rate of tangents.
        solver_rate: the first learning rate of H^-1 g.
    """

    pool: Slots
    inner_rate: np.ndarray
    solver_rate: np.ndarray


class Owned(TypedDict):
    """The set itself, whose average the state holds; the scale, the pool, and the learning rates of the descents."""

    images: AnyArray
    labels: AnyArray
    scale: AnyArray
    pool: Slots
    inner: Rate
    solver: Rate


@final
@value
class RCIG(TargetMethod[Prepared, Owned]):
    """Convexified implicit gradients: learn images and labels through a linearised student that is solved."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class."""
    learn_labels: bool = True
    """Learn labels with the images. Off keeps the labels of step 0."""
    mirror: bool = True
    """Let the student learn the mirror images of RGB sets too, where a mirror keeps the class."""
    network: Network = Network("ConvNet-D3", norm="none", w_std=1.0, growth=2, activation="softplus")
    """The networks of the pool. Their activation is smooth, since it is differentiated twice."""
    pool: Pool = Pool(30, optimizer=Optimizer(learning_rate=5e-5), loss="mean")
    """The pool of networks at which the student is linearised."""
    pool_updates: Annotated[int, Field(ge=1)] = 15
    """The largest number of updates of the drawn network in a step. The number is uniform from 1 to this."""
    steps: Annotated[int, Field(ge=1)] = 15_000
    """The largest number of updates. The paper takes 15 000 for one image per class of CIFAR-10 and 10 000 for ten."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    """The learning rate of AdaBelief for images and labels."""
    scale_learning_rate: Annotated[float, Field(gt=0)] = 0.03
    """The learning rate of AdaBelief for the scale s of the cross-entropy."""
    target_batch: Annotated[int, Field(ge=1)] | None = 1024
    """The number of target images of each step. None means the whole train set."""
    decay: Annotated[float, Field(gt=0)] = 5e-4
    """The regulariser of the student for each image of the set: lam is this times the number of images."""
    inner_steps: Annotated[int, Field(ge=1)] = 20
    """The number of Adam steps by which the student's tangents are learned."""
    inner_rate: Annotated[float, Field(gt=0)] | None = None
    """The first learning rate of the student's tangents. None means that it is searched for, as in the public code."""
    solver_steps: Annotated[int, Field(ge=1)] = 20
    """The number of Adam steps that approximate the inverse Hessian's product with the gradient."""
    solver_rate: Annotated[float, Field(gt=0)] | None = None
    """The first learning rate of the inverse Hessian's product. None means that it is searched for, as in the public
    code."""
    clip: bool = True
    """Shorten the implicit gradient of images, and that of labels, to the length of the direct one."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """The weight of the past in the moving average of images and labels that is exported. 0 exports the set itself."""
    evaluation_network: Network = Network("ConvNet-D3", norm="none", w_std=1.0, growth=2)
    """The network that is trained on the set to judge it."""
    evaluation_optimizer: Optimizer = Optimizer(learning_rate=1e-4, schedule="rise_cosine")
    """The optimiser of the network that judges the set."""
    evaluation_steps: Annotated[int, Field(ge=1)] = 1000
    """The number of updates of the judge's network, in full batches up to 500 images."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks that are trained for the accuracy on test images."""
    name: Literal["rcig"] = "rcig"

    @property
    def judge(self) -> TrainedNetworks:
        """Fresh networks, trained by Adam on the squared error on what the student learns: mirror images too."""
        return TrainedNetworks(
            self.evaluation_network,
            self.evaluation_optimizer,
            self.evaluation_steps,
            mirror=self.mirror,
            validation_networks=self.validation_networks,
            test_networks=self.test_networks,
        )

    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return a pool that has learned from the natural images, and the first learning rates.

        A rate that is not given is found on those images and the pool's first network: it rises by a fifth until a
        descent fails to fall at a step, and the first learning rate is 0.84 times that rate.

        Raises:
            ConfigError: if the network of the pool is one of the user's own.
            ShapeError: if the images are too small for a network.
        """
        refuse_own(self.network, "the network of rcig", why="Its last layer is solved apart, and has to be known.")
        state = problem.natural_support(self.images_per_class)
        Model(self.evaluation_network, problem.num_classes).check_images(*state.inputs.shape[1:3])
        student = self._student(problem)
        lesson = student.see(state.inputs, state.labels)
        slots = pool.start(self.pool, student.model, *map(np.asarray, lesson), seed=problem.seed, store=store)
        artefact = store.artefact(
            "rates",
            {
                "method": to_dict(self),
                "set": digest(np.asarray(state.inputs), np.asarray(state.labels)),
                "seed": problem.seed,
            },
        )
        rates = artefact.load((np.zeros(()), np.zeros(())))
        if rates is None:
            with store.progress(2, "learning rates") as bar:
                rates = self._first_rates(problem, slots[0].variables, state, bar.update)
            artefact.save(rates)
        return Prepared(slots, *rates)

    def _first_rates(
        self, problem: Problem, base: Variables, state: State[None], on_rate: Callable[[], object]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the first learning rates, given or found, of the tangents and of H^-1 g."""
        student = self._student(problem)
        lesson, classes = student.see(state.inputs, state.labels), problem.num_classes
        inner_rate, solver_rate = self.inner_rate, self.solver_rate
        with jax.default_matmul_precision("highest"):
            if inner_rate is None:
                inner_rate = find_rate(
                    lambda rate: learn(student, base, *lesson, rate, steps=self.inner_steps), FIRST_INNER_RATE
                )
            on_rate()
            if solver_rate is None:
                set_ = {"images": state.inputs, "labels": state.labels, "scale": np.zeros((), np.float32)}
                target = problem.target_batch(self.target_batch, step=0)
                tangents = learn(student, base, *lesson, np.float32(inner_rate), steps=self.inner_steps).at
                g = outer_gradients(student, base, set_, tangents, target.images, target.labels).tangents
                steps = self.solver_steps
                solver_rate = find_rate(
                    lambda rate: inverse_product(student, base, lesson[0], g, classes, rate, steps=steps),
                    FIRST_SOLVER_RATE,
                )
            on_rate()
        return np.asarray(inner_rate), np.asarray(solver_rate)

    def init(self, problem: Problem, prepared: Prepared) -> State[Owned]:
        """Return step 0: class-balanced natural images, centred labels, s = 0, the pool and the learning rates."""
        state = problem.natural_support(self.images_per_class)
        owned = Owned(
            images=state.inputs,
            labels=state.labels,
            scale=np.zeros((), np.float32),
            pool=prepared.pool,
            inner=first(prepared.inner_rate),
            solver=first(prepared.solver_rate),
        )
        return state._replace(optimizer=begin(_optimizer, self, self._parameters(owned))).with_owned(owned)

    def step(self, problem: Problem, prepared: Prepared, state: State[Owned]) -> tuple[State[Owned], Metrics]:
        """Return the state after one update of the set and some of a network, with the loss before it.

        Raises:
            NonFiniteError: if the loss or its gradient is not finite.
            NotPositiveDefiniteError: if A has no Cholesky factor.
        """
        student, owned = self._student(problem), state.owned
        index = problem.draw("pool", self.pool.size, step=state.step)
        found = self._hypergradient(
            problem,
            state.step,
            owned["pool"][index].variables,
            {"images": owned["images"], "labels": owned["labels"], "scale": owned["scale"]},
            owned["inner"].value,
            owned["solver"].value,
        )
        gradient = {name: found.gradient[name] for name in self._parameters(owned)}
        _check_finite("the kernel of the student's features", found.k_ss)
        condition = krr.condition_number(found.k_ss, student.ridge)
        _check_finite("the loss of the student, or its gradient,", found.loss, *gradient.values())
        after, optimizer = descend(_optimizer, self, gradient, state.optimizer, self._parameters(owned))
        after = {"labels": owned["labels"], **after}
        newest = (1 - self.average) / (1 - self.average ** (state.step + 1))
        images = _update_average(state.inputs, after["images"], np.float32(newest))
        labels = _update_average(state.labels, after["labels"], np.float32(newest))
        owned = Owned(
            images=after["images"],
            labels=after["labels"],
            scale=after["scale"],
            pool=self._advance(problem, state, index, student.see(after["images"], after["labels"])),
            inner=watch(owned["inner"], found.inner_losses),
            solver=watch(owned["solver"], found.solver_losses),
        )
        metrics = {
            "loss": float(found.loss),
            "batch_accuracy": float(np.mean(np.asarray(found.are_right))),
            "condition": condition,
            "inner_rate": float(state.owned["inner"].value),
            "solver_rate": float(state.owned["solver"].value),
        }
        averaged = state._replace(inputs=images, labels=labels)
        return averaged._replace(step=state.step + 1, optimizer=optimizer, owned=owned), metrics

    def _advance(self, problem: Problem, state: State[Owned], index: int, lesson: tuple[Array, Array]) -> Slots:
        """Return the pool after the drawn network has learned the set, renewed where it has had all its updates."""
        slots = state.owned["pool"]
        model = self._student(problem).model
        for _ in range(1 + problem.draw("pool updates", self.pool_updates, step=state.step)):
            if int(slots[index].updates) < self.pool.max_updates:
                slots = pool.advance(self.pool, model, slots, index, *lesson, seed=problem.seed)
        if int(slots[index].updates) >= self.pool.max_updates:
            slots = pool.advance(self.pool, model, slots, index, *lesson, seed=problem.seed)
        return slots

    def _student(self, problem: Problem) -> Student:
        count, channels = self.images_per_class * problem.num_classes, problem.inputs.shape[3]
        mirror = self.mirror and are_mirrored(problem.mirror_keeps_class, channels)
        return Student(Model(self.network, problem.num_classes), krr.Ridge(self.decay * count, "absolute"), mirror)

    def _hypergradient(
        self, problem: Problem, step: int, base: Variables, set_: Parameters, inner_rate: Scalar, solver_rate: Scalar
    ) -> Hypergradient:
        target = problem.target_batch(self.target_batch, step=step)
        rates = (np.float32(rate) for rate in (inner_rate, solver_rate))
        return hypergradient(
            self._student(problem),
            base,
            set_,
            target.images,
            target.labels,
            *rates,
            inner_steps=self.inner_steps,
            solver_steps=self.solver_steps,
            clip=self.clip,
        )

    def _parameters(self, owned: Owned) -> Parameters:
        """Return the arrays that the optimiser moves, by name."""
        learned: Parameters = {"images": owned["images"], "scale": owned["scale"]}
        return {**learned, "labels": owned["labels"]} if self.learn_labels else learned


def _check_finite(what: str, *arrays: AnyArray) -> None:
    if not all(np.isfinite(np.asarray(array)).all() for array in arrays):
        raise NonFiniteError(
            f"{what} holds NaN or infinity",
            remedy="Lower the learning rate, or set inner_rate and solver_rate to smaller values.",
        )


@jax.jit
def _update_average(average: AnyArray, newest: AnyArray, weight: Scalar) -> AnyArray:
    return average + weight * (newest - average)


def _optimizer(config: RCIG) -> optax.GradientTransformation:
    """Return one rule for all parameters, with a rate of its own for the scale."""
    names = ("images", "labels", "scale") if config.learn_labels else ("images", "scale")
    rates = {name: config.scale_learning_rate if name == "scale" else config.learning_rate for name in names}
    rules = {name: optax.adabelief(rate) for name, rate in rates.items()}
    return optax.multi_transform(rules, {name: name for name in rules})  # type: ignore[return-value]
