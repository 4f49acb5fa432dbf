"""RCIG, reparameterised convexified implicit gradients: images and labels learned through a student that is solved.

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
v with labels 0. Both learning rates adapt (`watched`). Then the network learns the set for a few updates, and the
moving average of the set is what is validated and exported.

Where the paper and the public code leave a choice, this follows the code: predictions without the network's own
outputs, the clipped implicit gradient, the margin of labels, the search for the first rates. It departs from what the
code does by omission: there, tangents of the last layer move by their raw gradient and take part in H, and the network
moves on by its optimiser's momentum while the tangents are learned.

Reference: Loo, Hasani, Lechner, Rus 2023, "Dataset Distillation with Convexified Implicit Gradients"; public code,
`algorithms.py` and `configs_final/depth_3.txt`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip import krr
from kip.config import to_dict, value
from kip.errors import NonFiniteError
from kip.judges import TrainedNetworks
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.descent import begin, descend
from kip.methods.features import pool
from kip.methods.features.pool import Optimizer, Pool, Slot
from kip.methods.problem import Problem, State
from kip.networks.model import READOUT, Model, Network, Variables
from kip.storage.artefacts import Store, digest
from kip.training.predict import device_parts

WATCHED = 50
"""Steps after which a learning rate is adapted."""
FIRST_INNER_RATE, FIRST_SOLVER_RATE = 1e-5, 5e-5
"""Where the search for the first learning rates begins."""
LARGEST_RATE = 1e3
"""Where that search ends at the latest."""


class Rate(NamedTuple):
    """A learning rate that adapts, with what has been seen since it last did; all arrays, part of a checkpoint.

    Attributes:
        value: the learning rate, float32.
        higher: descents that ended higher than they began, int.
        falling: descents that fell at every step, int.
        count: descents, int.
    """

    value: np.ndarray
    higher: np.ndarray
    falling: np.ndarray
    count: np.ndarray


class Prepared(NamedTuple):
    """What is made before the steps.

    Attributes:
        pool: networks that have learned the natural images.
        inner_rate: the first learning rate of tangents.
        solver_rate: the first learning rate of H^-1 g.
    """

    pool: tuple[Slot, ...]
    inner_rate: np.ndarray
    solver_rate: np.ndarray


@value
class RCIG(Method):
    """Convexified implicit gradients: learn images and labels through a linearised student that is solved."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class."""
    learn_labels: bool = True
    """Whether labels are learned with the images."""
    mirror: bool = True
    """Whether the student learns the mirror images of RGB sets too, where a mirror keeps the class."""
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
    """The first learning rate of that product. None means that it is searched for, as in the public code."""
    clip: bool = True
    """Whether the implicit gradient of images, and that of labels, is at most as long as the direct one."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """The weight of the past in the moving average of images and labels that is exported. 0 exports the set itself."""
    evaluation_network: Network = Network("ConvNet-D3", norm="none", w_std=1.0, growth=2)
    """The network that is trained on the set to judge it."""
    evaluation_optimizer: Optimizer = Optimizer(learning_rate=1e-4, schedule="cosine")
    """The optimiser of that network."""
    evaluation_steps: Annotated[int, Field(ge=1)] = 1000
    """The number of updates of that network, in full batches up to 500 images."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """How many networks are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """How many networks are trained for the accuracy on test images."""
    name: Literal["rcig"] = "rcig"

    @property
    def label(self) -> str:
        """The pool's network."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Learned scores, or the classes of natural images."""
        return "scores" if self.learn_labels else "classes"

    @property
    def judge(self) -> TrainedNetworks:
        """Fresh networks, trained on the set by Adam on the squared error."""
        return TrainedNetworks(
            self.evaluation_network, self.evaluation_optimizer, self.evaluation_steps,
            validation_networks=self.validation_networks, test_networks=self.test_networks,
        )  # fmt: skip

    @property
    def needs(self) -> Needs:
        """The set takes images of each class."""
        return Needs(self.images_per_class, self.target_batch, whole_set=self.target_batch is None)

    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return a pool that has learned from the natural images, and the first learning rates.

        A rate that is not given is found on those images and the pool's first network: it rises by a fifth until a
        descent does not fall at each of its steps, and is then 0.84 times that rate.

        Raises:
            ShapeError: if the images are too small for a network.
        """
        state = problem.natural_support(self.images_per_class)
        Model(self.evaluation_network, problem.num_classes).check_images(*state.inputs.shape[1:3])
        student = self._student(problem)
        shown = student.shown(state.inputs, state.labels)
        slots = pool.start(self.pool, student.model, *map(np.asarray, shown), seed=problem.seed, store=store)
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
        self, problem: Problem, base: Variables, state: State, on_rate: Callable[[], Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the first learning rates, given or found, of the tangents and of H^-1 g."""
        student = self._student(problem)
        shown, classes = student.shown(state.inputs, state.labels), problem.num_classes
        inner_rate, solver_rate = self.inner_rate, self.solver_rate
        with jax.default_matmul_precision("highest"):
            if inner_rate is None:
                inner_rate = found_rate(
                    lambda rate: learn(student, base, *shown, rate, steps=self.inner_steps), FIRST_INNER_RATE
                )
            on_rate()
            if solver_rate is None:
                set_ = {"images": state.inputs, "labels": state.labels, "scale": np.zeros((), np.float32)}
                target = problem.target_batch(self.target_batch, step=0)
                tangents = learn(student, base, *shown, np.float32(inner_rate), steps=self.inner_steps).at
                g = outer_gradients(student, base, set_, tangents, target.images, target.labels).tangents
                steps = self.solver_steps
                solver_rate = found_rate(
                    lambda rate: inverse_product(student, base, shown[0], g, classes, rate, steps=steps),
                    FIRST_SOLVER_RATE,
                )
            on_rate()
        return np.asarray(inner_rate), np.asarray(solver_rate)

    def init(self, problem: Problem, prepared: Prepared) -> State:
        """Return step 0: class-balanced natural images, centred labels, s = 0, the pool and the learning rates."""
        state = problem.natural_support(self.images_per_class)
        owned = {
            "images": state.inputs, "labels": state.labels, "scale": np.zeros((), np.float32), "pool": prepared.pool,
            "inner": first(prepared.inner_rate), "solver": first(prepared.solver_rate),
        }  # fmt: skip
        return state._replace(owned=owned, optimizer=begin(_optimizer, self, self._learned(owned)))

    def step(self, problem: Problem, prepared: Prepared, state: State) -> tuple[State, Metrics]:
        """Return the state after one update of the set and some of a network, with the loss before it.

        Raises:
            NonFiniteError: if the loss or its gradient is not finite.
            NotPositiveDefiniteError: if A has no Cholesky factor.
        """
        student, owned = self._student(problem), state.owned
        index = problem.draw("pool", self.pool.size, step=state.step)
        found = self._hypergradient(
            problem, state.step, owned["pool"][index].variables,
            {name: owned[name] for name in ("images", "labels", "scale")}, owned["inner"].value, owned["solver"].value,
        )  # fmt: skip
        gradient = {name: found.gradient[name] for name in self._learned(owned)}
        _check_finite("the kernel of the student's features", found.k_ss)
        condition = krr.condition_number(found.k_ss, student.ridge)
        _check_finite("the loss of the student, or its gradient,", found.loss, *gradient.values())
        moved, optimizer = descend(_optimizer, self, gradient, state.optimizer, self._learned(owned))
        moved = {"labels": owned["labels"], **moved}
        newest = (1 - self.average) / (1 - self.average ** (state.step + 1))
        images = _averaged(state.inputs, moved["images"], np.float32(newest))
        labels = _averaged(state.labels, moved["labels"], np.float32(newest))
        owned = {
            **moved, "pool": self._advanced(problem, state, index, student.shown(moved["images"], moved["labels"])),
            "inner": watched(owned["inner"], found.inner_losses),
            "solver": watched(owned["solver"], found.solver_losses),
        }  # fmt: skip
        metrics = {
            "loss": float(found.loss),
            "batch_accuracy": float(np.mean(np.asarray(found.are_right))),
            "condition": condition,
            "inner_rate": float(state.owned["inner"].value),
            "solver_rate": float(state.owned["solver"].value),
        }
        averaged = state._replace(inputs=images, labels=labels)
        return averaged._replace(step=state.step + 1, optimizer=optimizer, owned=owned), metrics

    def _advanced(self, problem: Problem, state: State, index: int, shown: tuple[Array, Array]) -> tuple[Slot, ...]:
        """Return the pool after the drawn network has learned the set, renewed where it has had all its updates."""
        slots = state.owned["pool"]
        model = self._student(problem).model
        for _ in range(1 + problem.draw("pool updates", self.pool_updates, step=state.step)):
            if int(slots[index].updates) < self.pool.max_updates:
                slots = pool.advance(self.pool, model, slots, index, *shown, seed=problem.seed)
        if int(slots[index].updates) >= self.pool.max_updates:
            slots = pool.advance(self.pool, model, slots, index, *shown, seed=problem.seed)
        return slots

    def _student(self, problem: Problem) -> Student:
        count, channels = self.images_per_class * problem.num_classes, problem.inputs.shape[3]
        mirror = self.mirror and problem.mirror_keeps_class and channels == 3
        return Student(Model(self.network, problem.num_classes), krr.Ridge(self.decay * count, "absolute"), mirror)

    def _hypergradient(
        self, problem: Problem, step: int, base: Variables, set_: dict[str, Any], inner_rate: Any, solver_rate: Any
    ) -> Hypergradient:
        target = problem.target_batch(self.target_batch, step=step)
        rates = (np.float32(rate) for rate in (inner_rate, solver_rate))
        return hypergradient(
            self._student(problem), base, set_, target.images, target.labels, *rates,
            inner_steps=self.inner_steps, solver_steps=self.solver_steps, clip=self.clip,
        )  # fmt: skip

    def _learned(self, owned: dict[str, Any]) -> dict[str, Any]:
        names = ("images", "labels", "scale") if self.learn_labels else ("images", "scale")
        return {name: owned[name] for name in names}


class Student(NamedTuple):
    """What a student is; hashable, since it is static in compiled functions.

    Attributes:
        model: the network that is linearised.
        ridge: lam.
        mirror: whether it learns the mirror images of the set too.
    """

    model: Model
    ridge: krr.Ridge
    mirror: bool = False

    def shown(self, images: Any, labels: Any) -> tuple[Array, Array]:
        """Return the images and labels that it learns: the set, and where asked its mirror images after it."""
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        if not self.mirror:
            return images, labels
        return jnp.concatenate([images, images[:, :, ::-1]]), jnp.concatenate([labels, labels])

    def linearised(self, base: Variables, images: Array) -> tuple[Array, Callable[[Any], Array]]:
        """Return the features h (N, d) of images, and the function that takes tangents t to outputs o (N, c).

        Args:
            base: the variables w of the network.
            images: (N, H, W, C).
        """
        kernel = base["params"][READOUT]["kernel"]

        def outputs(parameters: Any) -> tuple[Array, Array]:
            readout = {**parameters[READOUT], "kernel": kernel}
            given = self.model.apply({**base, "params": {**parameters, READOUT: readout}}, images)
            return given.logits, given.features

        (_, features), push = jax.linearize(outputs, moving(base["params"]))
        return features, lambda tangents: push(tangents)[0]


def moving(parameters: Any) -> Any:
    """Return the parameters that tangents are of: all but the last layer's kernel."""
    readout = {name: leaf for name, leaf in parameters[READOUT].items() if name != "kernel"}
    return {**parameters, READOUT: readout}


def inner_loss(student: Student, base: Variables, images: Array, labels: Array, tangents: Any) -> Array:
    """Return l(t, S) of the images that the student is shown (`Student.shown`)."""
    features, push = student.linearised(base, images)
    residual = labels - push(tangents)
    alpha = krr.solve(features @ features.T, residual, student.ridge)
    return student.ridge.strength / (2 * residual.size) * (jnp.sum(residual * alpha) + _dot(tangents, tangents))


def outer_loss(
    student: Student, base: Variables, set_: dict[str, Any], tangents: Any, target: Array, target_labels: Array
) -> Array:
    """Return L(t, S): the plain path beside `hypergradient`.

    Args:
        student: the student.
        base: the variables of its network.
        set_: `images` (n, H, W, C), `labels` (n, c) and `scale`, s, ().
        tangents: t.
        target: X_t (m, H, W, C).
        target_labels: Y_t (m, c); their largest entry is the class.
    """
    features, push = student.linearised(base, target)
    return _of_features(student, base, set_, tangents, features, push(tangents), target_labels)[0]


class Descent(NamedTuple):
    """Where a descent ends, and the value before each of its steps, a tuple of scalars on the device."""

    at: Any
    values: tuple[Array, ...]


def learn(student: Student, base: Variables, images: Array, labels: Array, rate: Any, *, steps: int) -> Descent:
    """Return the tangents that a student learns, from 0, by Adam on its inner loss.

    Args:
        student: the student.
        base: the variables of its network.
        images: what it is shown (`Student.shown`).
        labels: likewise.
        rate: the learning rate.
        steps: the number of steps.
    """
    nothing = jax.tree.map(jnp.zeros_like, moving(base["params"]))
    return _descended(student, base, images, labels, nothing, rate, steps)


def inverse_product(
    student: Student, base: Variables, images: Array, gradient: Any, num_classes: int, rate: Any, *, steps: int
) -> Descent:
    """Return v, near H^-1 g, from 0, by Adam on 1/2 v.Hv - g.v, where g is `gradient`; otherwise as `learn`."""
    return _descended(student, base, images, jnp.zeros((len(images), num_classes), images.dtype), gradient, rate, steps)


class Outer(NamedTuple):
    """The outer loss, and its gradients.

    Attributes:
        loss: L.
        are_right: which target images are classified right, (m,) bool.
        k_ss: K, (n, n), of the images that the student is shown.
        direct: the gradient by the set at fixed tangents: `images`, `labels` and `scale`.
        tangents: g, that by the tangents.
        outputs: that by the outputs o of the target images alone, (m, c).
    """

    loss: Array
    are_right: Array
    k_ss: Array
    direct: dict[str, Array]
    tangents: Any
    outputs: Array


def outer_gradients(
    student: Student, base: Variables, set_: dict[str, Any], tangents: Any, target: Any, target_labels: Any
) -> Outer:
    """Return `outer_loss` and its gradients; arguments are the same. A network sees some target images at a time."""
    parts = device_parts(student.model, target)
    features, outputs = map(jnp.concatenate, zip(*(_seen(student, base, tangents, part) for part in parts)))
    outer = _head(student, base, set_, tangents, features, outputs, target_labels)
    gradient, first = outer.tangents, 0
    for part in parts:
        gradient = _pulled(student, base, part, outer.outputs[first : first + len(part)], gradient)
        first += len(part)
    return outer._replace(tangents=gradient)


def implicit_gradient(
    student: Student, base: Variables, set_: dict[str, Any], tangents: Any, product: Any
) -> dict[str, Any]:
    """Return -(d2l/dS dt) v by images, labels and scale, for v = H^-1 g; that by the scale is 0."""

    def along(set_: dict[str, Any]) -> Array:
        shown = student.shown(set_["images"], set_["labels"])
        slope = jax.jvp(lambda tangents: inner_loss(student, base, *shown, tangents), (tangents,), (product,))[1]
        return -slope

    return jax.grad(along)(set_)


class Hypergradient(NamedTuple):
    """The outer loss of a set, and its gradient.

    Attributes:
        loss: L.
        gradient: by `images`, `labels` and `scale`.
        are_right: which target images are classified right, (m,) bool.
        k_ss: K, (n, n), of the images that the student is shown.
        inner_losses: the inner loss before each step of the tangents, (inner steps,), on the host.
        solver_losses: 1/2 v.Hv - g.v before each step of v, likewise.
    """

    loss: Array
    gradient: dict[str, Array]
    are_right: Array
    k_ss: Array
    inner_losses: np.ndarray
    solver_losses: np.ndarray


def hypergradient(
    student: Student,
    base: Variables,
    set_: dict[str, Any],
    target: Any,
    target_labels: Any,
    inner_rate: Any,
    solver_rate: Any,
    *,
    inner_steps: int,
    solver_steps: int,
    clip: bool,
) -> Hypergradient:
    """Return the outer loss of a set at the student that learns it, and its gradient with respect to the set.

    Args:
        student: the student.
        base: the variables of its network.
        set_: `images`, `labels` and `scale`; see `outer_loss`.
        target: X_t (m, H, W, C).
        target_labels: Y_t (m, c).
        inner_rate: the learning rate of the tangents.
        solver_rate: the learning rate of H^-1 g.
        inner_steps: the number of steps of the tangents.
        solver_steps: the number of steps of H^-1 g.
        clip: whether each part of the implicit gradient is at most as long as that of the direct one.
    """
    # Features go into a regression that float32's last digits decide.
    with jax.default_matmul_precision("highest"):
        shown = student.shown(set_["images"], set_["labels"])
        tangents, inner_losses = learn(student, base, *shown, inner_rate, steps=inner_steps)
        outer = outer_gradients(student, base, set_, tangents, target, target_labels)
        product, values = inverse_product(
            student, base, shown[0], outer.tangents, shown[1].shape[1], solver_rate, steps=solver_steps
        )
        whole = _whole(student, base, set_, tangents, product, outer.direct, clip)
    return Hypergradient(outer.loss, whole, outer.are_right, outer.k_ss, np.stack(inner_losses), np.stack(values))


def first(rate: Any) -> Rate:
    """Return a learning rate of which nothing has been seen."""
    zero = np.zeros((), np.int32)
    return Rate(np.asarray(rate, np.float32), zero, zero, zero)


def watched(rate: Rate, values: np.ndarray) -> Rate:
    """Return a learning rate after one more descent, adapted after every 50.

    It becomes 0.9 of itself where at least 29 % of the descents ended higher than they began, and otherwise 1.05 times
    itself where at least 70 % fell at every step.

    Args:
        rate: before.
        values: the value before each step of the descent, (k,).
    """
    count, higher = int(rate.count) + 1, int(rate.higher) + int(values[-1] > values[0])
    falling = int(rate.falling) + int(_falls(values))
    if count < WATCHED:
        return Rate(rate.value, *(np.asarray(number, np.int32) for number in (higher, falling, count)))
    factor = 0.9 if higher >= 0.29 * count else 1.05 if falling >= 0.7 * count else 1.0
    return first(np.float32(factor) * rate.value)


def found_rate(descent: Callable[[Any], Descent], start: float) -> float:
    """Return the first learning rate: 0.84 times the least of start, 1.2 start, ... at which a descent does not fall.

    Args:
        descent: the descent at a rate.
        start: the first rate that is tried.
    """
    rate = start
    while rate < LARGEST_RATE and _falls(np.stack(descent(np.float32(rate)).values)):
        rate *= 1.2
    return 0.84 * rate


def _check_finite(what: str, *arrays: Array) -> None:
    if not all(np.isfinite(np.asarray(array)).all() for array in arrays):
        raise NonFiniteError(
            f"{what} holds NaN or infinity",
            remedy="Lower the learning rate, or set inner_rate and solver_rate to smaller values.",
        )


def _falls(values: np.ndarray) -> bool:
    return bool(np.all(values[1:] < values[:-1]))


def _of_features(
    student: Student, base: Variables, set_: dict[str, Any], tangents: Any, features: Array, outputs: Array,
    target_labels: Array,
) -> tuple[Array, tuple[Array, Array]]:  # fmt: skip
    """Return L, given the features and outputs o of the target images, with the predictions and K."""
    images, labels = student.shown(set_["images"], set_["labels"])
    support, push = student.linearised(base, images)
    k_ss = support @ support.T
    alpha = krr.solve(k_ss, labels - push(tangents), student.ridge)
    predictions = outputs + features @ (support.T @ alpha)
    wrong = optax.softmax_cross_entropy_with_integer_labels(
        jnp.exp(set_["scale"]) * predictions, target_labels.argmax(axis=1)
    )
    largest = jax.lax.top_k(set_["labels"], 2)[0]
    margin = jnp.minimum(largest[:, 0] - largest[:, 1], 1 / (2 * labels.shape[1]))
    return jnp.mean(wrong) - jnp.mean(margin), (predictions, k_ss)


@partial(jax.jit, static_argnames=("student",))
def _head(
    student: Student, base: Variables, set_: dict[str, Any], tangents: Any, features: Array, outputs: Array,
    target_labels: Array,
) -> Outer:  # fmt: skip
    """Return L and its gradients by the set, by the tangents through the set alone, and by the targets' outputs."""
    (loss, (predictions, k_ss)), gradients = jax.value_and_grad(_of_features, argnums=(2, 3, 5), has_aux=True)(
        student, base, set_, tangents, features, outputs, target_labels
    )
    return Outer(loss, predictions.argmax(axis=1) == target_labels.argmax(axis=1), k_ss, *gradients)


@partial(jax.jit, static_argnames=("student",))
def _seen(student: Student, base: Variables, tangents: Any, images: Array) -> tuple[Array, Array]:
    features, push = student.linearised(base, images)
    return features, push(tangents)


@partial(jax.jit, static_argnames=("student",))
def _pulled(student: Student, base: Variables, images: Array, to_outputs: Array, gradient: Any) -> Any:
    """Return the gradient by the tangents after that through the outputs of some target images is added."""
    (more,) = jax.linear_transpose(student.linearised(base, images)[1], gradient)(to_outputs)
    return jax.tree.map(jnp.add, gradient, more)


@partial(jax.jit, static_argnames=("student", "clip"))
def _whole(
    student: Student, base: Variables, set_: dict[str, Any], tangents: Any, product: Any, direct: Any, clip: bool
) -> dict[str, Array]:
    implicit = implicit_gradient(student, base, set_, tangents, product)
    if clip:
        implicit = jax.tree.map(_at_most_as_long, implicit, direct)
    return jax.tree.map(jnp.add, direct, implicit)


def _descended(
    student: Student, base: Variables, images: Array, labels: Array, gradient: Any, rate: Any, steps: int
) -> Descent:
    # A compiled step at a time: within a compiled loop, XLA's convolutions take six times as long on CPUs.
    k_ss, pull = _prepared(student, base, images)
    at, values = jax.tree.map(jnp.zeros_like, gradient), []
    memory = optax.scale_by_adam().init(at)
    for _ in range(steps):
        at, memory, before = _adam(student.ridge, k_ss, pull, labels, gradient, rate, at, memory)
        values.append(before)
    return Descent(at, tuple(values))


@partial(jax.jit, static_argnames=("student",))
def _prepared(student: Student, base: Variables, images: Array) -> tuple[Array, Any]:
    """Return K, and the function that pulls a cotangent of outputs o back to tangents, a pytree."""
    features, push = student.linearised(base, images)
    _, pull = jax.vjp(push, jax.tree.map(jnp.zeros_like, moving(base["params"])))
    return features @ features.T, pull


@partial(jax.jit, static_argnames=("ridge",))
def _adam(
    ridge: krr.Ridge, k_ss: Array, pull: Any, labels: Array, gradient: Any, rate: Any, at: Any, memory: Any
) -> tuple[Any, Any, Array]:
    """Return tangents after one step of Adam on l(t, S) - g.t, the optimiser's state, and the value before.

    The outputs are o = J t, J^T is `pull`, and dl/dt = (lam t - J^T lam alpha) / (n c).
    """
    (outputs,) = jax.linear_transpose(lambda cotangent: pull(cotangent)[0], labels)(at)
    residual = labels - outputs
    alpha = krr.solve(k_ss, residual, ridge)
    weight = ridge.strength / residual.size
    before = weight / 2 * (jnp.sum(residual * alpha) + _dot(at, at)) - _dot(gradient, at)
    slope = jax.tree.map(lambda t, pulled, g: weight * (t - pulled) - g, at, pull(alpha)[0], gradient)
    updates, memory = optax.scale_by_adam().update(slope, memory)
    return jax.tree.map(lambda leaf, update: leaf - rate * update, at, updates), memory, before


def _dot(a: Any, b: Any) -> Array:
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))  # type: ignore[return-value]


def _at_most_as_long(part: Array, longest: Array) -> Array:
    length = jnp.linalg.norm(part)
    return part * jnp.minimum(1.0, jnp.linalg.norm(longest) / jnp.where(length > 0, length, 1.0))


@jax.jit
def _averaged(average: Array, newest: Array, weight: Array) -> Array:
    return average + weight * (newest - average)


def _optimizer(config: RCIG) -> optax.GradientTransformation:
    """Return one rule for what is learned, with a rate of its own for the scale."""
    names = ("images", "labels", "scale") if config.learn_labels else ("images", "scale")
    rates = {name: config.scale_learning_rate if name == "scale" else config.learning_rate for name in names}
    rules = {name: optax.adabelief(rate) for name, rate in rates.items()}
    return optax.multi_transform(rules, {name: name for name in rules})  # type: ignore[return-value]
