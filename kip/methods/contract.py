"""The contract of a method: a frozen configuration value that prepares, begins and takes the steps.

A method is one file with one class:

    @final
    @value
    class Mine(Method[Prepared, Owned]):
        \"\"\"One line that `--help` shows.\"\"\"

        images_per_class: int = 1
        steps: int = 100
        name: Literal["mine"] = "mine"

        label, labels_are, judge, needs    the answers to titles, readers of its sets, the loop and checks of the data
        prepare(problem, store)            a `Prepared`, made once (a teacher, a pool), saved part by part by `store`
        init(problem, prepared)            a `State[Owned]`, step 0; cheap
        step(problem, prepared, state)     the next `State[Owned]`, and metrics

`None` stands for what is absent: a method that prepares nothing and keeps nothing is a `Method[None, None]`.

The class is final and inherits from `Method`, or through one abstract class of its family. It overrides nothing: its
members are abstract above it. Three have a default that a class may replace: `schedule_ends`, `step_images` and
`natural`. What siblings share are functions, and small values that they are given.

The class registers itself under `name` where it is defined: in `kip.methods`, or in a user's own config file.
"""

from __future__ import annotations

import abc
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Literal, NamedTuple

from typing_extensions import TypeVar

from kip.errors import ConfigError, did_you_mean
from kip.judges import Judge
from kip.kernels.architecture import Kernel
from kip.methods.problem import Owned, Problem, State
from kip.storage.artefacts import Store

Prepared = TypeVar("Prepared", default=Any)
LabelsAre = Literal["classes", "scores", "representations"]
"""The meaning of a set's labels: one-hot or centred one-hot `classes`; learned `scores`, one for each class, of which
the largest is at the class; or `representations`, whose entries are no classes and are never read as such."""
Metrics = Mapping[str, float | int | str]
"""The metrics of a step, by name, for a line of metrics.jsonl: `loss`, and where they are known `batch_accuracy` (a
fraction) and `condition` (the condition number of K_ss with its ridge)."""


class Needs(NamedTuple):
    """The demands of a method on a data set; they are checked before anything is compiled.

    Attributes:
        images_per_class: train images that the set takes of each class; None: it does not draw by class.
        target_batch: target images of a step, class-balanced; None: it takes none, or all.
        base: another data set, whose train images it learns labels of; None: none.
        kernels: the kernels that the images have to fit.
        differentiates: whether kernels are differentiated, where there are any.
        augmentation: whether target batches may be augmented.
        balanced: whether target batches have an equal share of each class.
        whole_set: whether all train images, preprocessed, are in memory at once, as in a target batch of all of them.
        class_images: the most images of one class that are in memory at once as float64; infinity for all of them.
    """

    images_per_class: int | None = None
    target_batch: int | None = None
    base: str | None = None
    kernels: tuple[Kernel, ...] = ()
    differentiates: bool = True
    augmentation: bool = True
    balanced: bool = True
    whole_set: bool = False
    class_images: float = 0.0


class Method(abc.ABC, Generic[Prepared, Owned]):
    """Base of every method's configuration. Subclasses are frozen values (`kip.config.value`) with a literal `name`.

    `Prepared` is the type of what `prepare` makes, `Owned` that of what the method keeps between steps (`State.owned`).
    """

    name: str
    """The name under which the method is registered."""
    steps: int
    """The largest number of updates; a field, or a property."""

    registry: ClassVar[dict[str, type[Method]]] = {}
    """The known methods, by name."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        name = cls.__dict__.get("name")
        if name is None:  # a class between the base and methods
            return
        known = Method.registry.get(name)
        if known is not None and known.__module__.startswith("kip.methods.") and known.__module__ != cls.__module__:
            raise ConfigError(
                f"the method {cls.__name__}", got=f"name {name!r}, which is {known.__name__}'s", expected="another name"
            )
        Method.registry[name] = cls

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """The kernel or network, for titles."""

    @property
    @abc.abstractmethod
    def labels_are(self) -> LabelsAre:
        """The meaning of the labels of its sets."""

    @property
    @abc.abstractmethod
    def judge(self) -> Judge:
        """The judge that scores its sets, in the loop and wherever they are loaded."""

    @property
    @abc.abstractmethod
    def needs(self) -> Needs:
        """The demands on a data set."""

    def step_images(self, num_classes: int) -> float:
        """Return the least number of images that pass through a network in a step; forward and back counts as three.

        It bounds the cost of judging (`kip.runs.judging`). By default, a step learns from its target batch and its own
        images.

        Args:
            num_classes: C.
        """
        needs = self.needs
        return 3 * ((needs.target_batch or 0) + (needs.images_per_class or 1) * num_classes)

    @property
    def schedule_ends(self) -> bool:
        """True if the learning rate depends on `steps`, so that a run of more steps is another run."""
        return False

    @abc.abstractmethod
    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return the parts that are made once before the steps, through `store`; None where there are none."""

    @abc.abstractmethod
    def init(self, problem: Problem, prepared: Prepared) -> State[Owned]:
        """Return step 0; cheap, and a function of its arguments."""

    @abc.abstractmethod
    def step(self, problem: Problem, prepared: Prepared, state: State[Owned]) -> tuple[State[Owned], Metrics]:
        """Return the state after one update, and the metrics before it.

        Raises:
            NonFiniteError, NotPositiveDefiniteError: if the update is not finite, or a kernel has no Cholesky factor.
        """

    def natural(self, initial: State[Owned], exported: State[Owned]) -> State[Owned] | None:
        """Return the natural images that the exported set is compared with, labelled as such; None: there are none."""
        return initial


def method_named(name: object) -> type[Method]:
    """Return the class that is registered under a name.

    Raises:
        ConfigError: if there is none.
    """
    import_all()
    if not isinstance(name, str) or name not in Method.registry:
        raise ConfigError(
            "name of the method",
            got=repr(name),
            expected=", ".join(sorted(Method.registry)),
            remedy=did_you_mean(name, Method.registry)
            + "A method of your own is known once its config file is loaded: `kip distill FILE.py`.",
        )
    return Method.registry[name]


def import_all() -> None:
    """Import every file of `kip.methods`, so that its methods are registered."""
    import kip.methods as package

    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
