"""An experiment: the one value that says what a run does; and finding it by name.

`CONFIG` on the command line is a name in `configs/`, a `.py` file, or a `.json` file (such as a run's `config.json`).
A Python file holds `config = Experiment(...)`, or `rows = {name: Experiment(...)}` for a whole table, whose rows are
named `FILE:ROW`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import hashlib
import importlib.resources
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator

from kip import config
from kip.blocks import Blocks
from kip.config import value
from kip.data import Augment, Data
from kip.errors import ConfigError, KipError, did_you_mean
from kip.methods.contract import Method, method_named
from kip.methods.kernel.kip import KIP
from kip.methods.kernel.label_solve import LabelSolve
from kip.preprocess import Preprocess
from kip.storage.files import open_regular


def _read_method(given: Any) -> Method:
    """Return a method as it is, or that of its JSON form, whose `name` selects the class."""
    if isinstance(given, Method):
        return given
    if not isinstance(given, dict):
        raise ConfigError("method", got=repr(given), expected="a method, such as kip.KIP()")
    if (name := given.get("name")) in RETIRED:
        raise ConfigError(
            f"the method {name!r}",
            got="a configuration of an older kip, which cannot be read any more",
            expected="the method 'selection' with a rule, such as kip.Selection(rule=kip.rules.Herding())",
            remedy="Write the configuration anew: docs/methods/selection.md has the rules. A distilled.npz of such a "
            "run is still read, judged and compared.",
        )
    return config.read(method_named(name), without_former_options(given))


RETIRED = ("geometric", "pruning")
"""Names of methods of an older kip; their rules are those of the method `selection`."""
FORMER_OPTIONS = {"datm": {"start", "latents"}}
"""Options that methods had and never used, by the name of the method; files of an older kip hold them."""


def without_former_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return a method's JSON form without options that had no effect and that the method has no more."""
    former = FORMER_OPTIONS.get(str(given.get("name")), set())
    return {name: setting for name, setting in given.items() if name not in former}


AnyMethod = Annotated[Method, PlainValidator(_read_method), PlainSerializer(config.to_dict, return_type=dict)]
"""A method's configuration; in JSON, its `name` says which. Methods register themselves: see `kip.methods.contract`."""


@value
class Reference:
    """The published result that an experiment reproduces."""

    source: str
    """The paper, table and row."""
    accuracy: Annotated[float, Field(ge=0, le=1)]
    """The published test accuracy, as a fraction."""
    spread: Annotated[float, Field(ge=0, le=1)] | None = None
    """The standard deviation that is published with it, as a fraction."""

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" +- {100 * self.spread:.1f}"
        return f"{100 * self.accuracy:.1f}{spread} % ({self.source})"


@value
class Experiment:
    """Everything that a run's result depends on."""

    method: AnyMethod
    """The method, with its options."""
    data: Data = Data()
    """The data set and its validation split."""
    preprocess: Preprocess = Preprocess()
    """The preprocessing of images before the kernel sees them."""
    augment: Augment = Augment()
    """The augmentation of target batches."""
    blocks: Blocks = Blocks()
    """Options of the computation of kernel matrices."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The root seed of every draw but the validation split's, which has its own in `data`."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 50
    """The number of steps between two checkpoints. Each checkpoint measures validation accuracy."""
    judging_share: Annotated[float, Field(gt=0)] | None = 0.2
    """The share of the work of the steps that judging may cost while a run goes on, where networks are trained for it:
    they are fewer and take fewer epochs then. The whole protocol judges what is exported, at the end. None judges every
    checkpoint by the whole protocol."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """The number of checkpoints without a better validation accuracy after which the run stops early. None means
    never."""
    reference: Reference | None = None
    """The published result that this reproduces. It is shown beside ours and changes nothing."""

    def __post_init__(self) -> None:
        if self.augment.policy != "none" and not self.method.needs.augmentation:
            raise ConfigError(
                f"augment with the method {self.method.name!r}",
                got=self.augment.policy,
                expected="'none'",
                remedy="The method takes train images as they are.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the experiment as JSON-ready dictionaries."""
        return config.to_dict(self)

    def identity(self) -> dict[str, Any]:
        """Return what two runs must share for one to continue the other: all but `reference` and the step limit.

        The limit does belong to it where the learning rate's schedule ends there, and `judging_share` where networks
        are trained to judge: checkpoints that were judged otherwise cannot be compared.
        """
        parts = self.to_dict()
        parts.pop("reference")
        if not self.method.judge.trained_images("test", 1):
            parts.pop("judging_share")
        if not self.method.schedule_ends:
            parts["method"].pop("steps", None)
        return parts


def with_label_solve(experiment: Experiment) -> Experiment:
    """Return the experiment with Label Solve as its method, itself if it has it; other methods lend their settings.

    Raises:
        ConfigError: if the method has several kernels.
    """
    method = experiment.method
    if isinstance(method, LabelSolve):
        return experiment
    if not isinstance(method, KIP) or len(method.kernels) != 1:
        raise ConfigError("method for Label Solve", got=method.label, expected="KIP with one kernel")
    solve = LabelSolve(method.images_per_class, kernel=method.kernels[0], ridge=method.ridge)
    return dataclasses.replace(experiment, method=solve, augment=Augment("none"), reference=None)


def configs() -> dict[str, Experiment]:
    """Return the configs that come with kip by name; tables give one `FILE:ROW` for each row."""
    by_name: dict[str, Experiment] = {}
    for path in _files():
        content = _run(path)
        rows = {f"{path.stem}:{row}": experiment for row, experiment in content.get("rows", {}).items()}
        by_name |= rows or {path.stem: content["config"]}
    return by_name


def names() -> list[str]:
    """Return the names of `configs`."""
    return list(configs())


def load(name: str) -> Experiment:
    """Return the experiment of a config's name, `FILE:ROW`, or path.

    Raises:
        ConfigError: if there is none, or it is not a valid configuration.
    """
    stem, _, row = name.partition(":")
    if stem.endswith(".json"):
        return config.from_json(Experiment, _read(Path(stem)), source=stem)
    path = Path(stem) if stem.endswith(".py") else _folder() / f"{stem}.py"
    if not path.is_file() and stem.endswith(".py"):
        raise ConfigError(f"no file {stem}", remedy="`kip configs` lists the configs that come with kip.")
    if not path.is_file():
        raise ConfigError(
            f"no config {stem!r}",
            expected="a name that `kip configs` lists, or a path ending in .py or .json",
            remedy=_nearest(stem, [file.stem for file in _files()]),
        )
    content = _run(path)
    if "rows" in content:
        if row not in content["rows"]:
            rows = ", ".join(content["rows"])
            raise ConfigError(
                f"row of the config {stem!r}",
                got=repr(row),
                expected=f"{stem}:ROW, with ROW of {rows}",
                remedy=_nearest(row, content["rows"]),
            )
        experiment = content["rows"][row]
    else:
        experiment = content.get("config")
    is_row = "rows" in content
    if (row and not is_row) or not isinstance(experiment, Experiment):
        raise ConfigError(
            f"config {name!r}",
            got="a file without rows" if row and not is_row else f"{row if is_row else 'config'} = {experiment!r}",
            expected="a file with `config = kip.Experiment(...)` or `rows = {name: kip.Experiment(...)}`",
        )
    return experiment


def _nearest(given: str, known: Iterable[str]) -> str | None:
    """Return `Did you mean NAME?`, or None; names that differ from the given one in numbers alone come first."""
    known = list(known)
    same_words = [name for name in known if _without_numbers(name) == _without_numbers(given)]
    return did_you_mean(given, same_words or known).strip() or None


def _without_numbers(name: str) -> str:
    """Return `cifar10_dc_10` and `cifar100_dc_ipc10` alike, as `cifar_dc_`."""
    return re.sub(r"(ipc)?\d+", "", name)


def matching(name: str) -> list[str]:
    """Return the names of the rows that `FILE:PATTERN` stands for; other names as they are.

    A pattern has `*` for any letters and `?` for one letter: `coresets:mnist_*_ipc10`.

    Raises:
        ConfigError: if no row of the file matches, or there is no such file.
    """
    stem, _, pattern = name.partition(":")
    if not set(pattern) & set("*?"):
        return [name]
    path = Path(stem) if stem.endswith(".py") else _folder() / f"{stem}.py"
    rows = _run(path).get("rows", {}) if path.is_file() else {}
    if not (found := [f"{stem}:{row}" for row in rows if fnmatch.fnmatchcase(row, pattern)]):
        raise ConfigError(
            f"rows of the config {stem!r}",
            got=f"none that match {pattern!r}",
            expected=", ".join(rows) or "a file with rows",
            remedy="`kip configs` lists the configs with their rows.",
        )
    return found


def describe(name: str) -> str:
    """Return the first line of the docstring of a config that comes with kip."""
    text = _run(_folder() / f"{name.partition(':')[0]}.py").get("__doc__") or ""
    return text.strip().partition("\n")[0]


def _folder() -> Path:
    return Path(str(importlib.resources.files("kip.configs")))


def _files() -> list[Path]:
    return [path for path in sorted(_folder().glob("*.py")) if not path.name.startswith("_")]


def _read(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the config {path}",
            got=getattr(error, "strerror", None) or error,
            remedy="`kip configs` lists the configs that come with kip; a run keeps its own as RUN/config.json.",
        ) from None


_loaded: ContextVar[dict[Path, dict[str, Any]] | None] = ContextVar("loaded", default=None)
"""The names that each file defines that was run since `each_file_once` began; None outside of it."""


@contextlib.contextmanager
def each_file_once() -> Iterator[None]:
    """Run each file of configurations once meanwhile, for all rows of its table.

    Otherwise a file is run each time, for it may have changed, or what it imports or names may have.
    """
    token = _loaded.set({})
    try:
        yield
    finally:
        _loaded.reset(token)


def _run(path: Path) -> dict[str, Any]:
    """Return the names that a Python file defines.

    The file is loaded as a module that Python knows by a name of its own: a class in it has a source and a place where
    its annotations are looked up, as `--help` and pydantic need. It is run anew each time but in `each_file_once`.
    """
    content, place, loaded = _read(path), path.absolute(), _loaded.get()
    if loaded is not None and place in loaded:
        return loaded[place]
    name = f"_kip_config_{path.stem}_{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None  # the name of the file ends in .py
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(compile(content, str(place), "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        if isinstance(error, KipError):
            raise ConfigError(f"in {path.name}: {str(error).rstrip('.')}") from None
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise ConfigError(
            f"in {path.name}: {type(error).__name__}: {error}", remedy=f"`python {path}` shows where."
        ) from error
    if loaded is not None:
        loaded[place] = vars(module)
    return vars(module)
