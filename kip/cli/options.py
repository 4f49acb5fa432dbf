"""Options that several commands share."""

from __future__ import annotations

import dataclasses
import inspect
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from kip.cli import help
from kip.cli.streams import nobody_reads
from kip.config import label
from kip.errors import ConfigError, OutputError, in_our_voice
from kip.storage.files import atomic_write

DataDir = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]
Out = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
OutFolder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]
Step = Annotated[int | None, tyro.conf.arg(metavar="STEP")]
Config = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="CONFIG")]]
Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
Runs = tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="[RUN ...]")]]
Set = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SET")]]
Sets = tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="[SET ...]")]]
Words = tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[WORD ...]")]]
Address = Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")]
Json = bool
Stax = Annotated[tuple[str, ...], tyro.conf.arg(metavar="[FILE:FUNCTION ...]")]
Executor = Literal["local", "zmq", "ray", "launchpad"]
LoggerName = Literal["tensorboard", "wandb", "trackio"]


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a run that are no part of its configuration: a run may be resumed under others."""

    out: OutFolder = None
    """The run's folder. The default is runs/CONFIG, with -label-solve where a KIP configuration is solved."""
    data_dir: DataDir = None
    """The folder of NAME.npz files. The default is $KIP_DATA_DIR. Without such a file, tensorflow-datasets loads the
    data set."""
    executor: Executor = "local"
    """The place where kernel tiles are computed: in this process (local), in worker processes (zmq), in ray's actors,
    or in launchpad's processes, which need CPython 3.10. With several runs, ray computes each run as one task."""
    workers: int = 1
    """The number of worker processes that zmq, ray or launchpad starts."""
    address: Address = None
    """With zmq and launchpad, HOST:PORT to listen on for workers on other machines (`kip worker`); the default is
    loopback and any port. With ray, the address of a cluster that runs, such as auto; the default is a new one on this
    machine."""
    check_share: float = 0.01
    """The share of the workers' tasks that is computed twice and compared. 1 checks every task, and 0 switches the
    check off."""
    mixed_hardware: bool = False
    """Let workers of different hardware compute for one run. Their results differ in the last bits, and are compared to
    a tolerance of 0.001 of the largest entry."""
    wait_for_workers: float = 600.0
    """The seconds that a run waits where no worker is there, at its start and later, before it ends."""
    vary: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[FIELD=VALUE,VALUE ...]")] = ()
    """Fields of the configuration, each with several values: every combination of them is a run of its own."""
    jobs: int = 1
    """The number of processes of this machine that compute, on one GPU each where there are any: several runs at a
    time; and experts and recorded networks of one run's preparation."""
    device_share: float = 1.0
    """The part of a GPU that each run takes where several runs are computed at a time, by --jobs or by Ray."""
    log: tuple[LoggerName, ...] = ()
    """Loggers that the run is written to as well: tensorboard (into RUN/tensorboard), wandb, trackio."""
    stax: Stax = ()
    """The functions of Stax and Features kernels and of generators that a .json configuration may load. Loading one
    runs the file that it is in."""
    json: Json = False
    """Print one JSON object with the results as the last line of stdout."""


def check_workers(executor: Executor, workers: int, check_share: float, wait_for_workers: float, **others: Any) -> None:
    """Refuse options of workers that are out of range, or that the local executor would ignore.

    Args:
        executor: where kernels are computed.
        workers: how many worker processes are started.
        check_share: the share of tasks that is computed twice.
        wait_for_workers: the seconds that a run waits for one.
        others: further options of workers, by their names in `RunOptions`.

    Raises:
        ConfigError: if so.
    """
    if executor == "local":
        given = {"workers": workers, "check_share": check_share, "wait_for_workers": wait_for_workers, **others}
        unused = [name for name, value in given.items() if value != getattr(RunOptions, name)]
        if unused:
            raise ConfigError(
                "options of workers with --executor local",
                got=", ".join(f"--{name.replace('_', '-')} {given[name]}" for name in unused),
                expected="none of them",
                remedy="Add --executor zmq or --executor ray; local uses every device of this process.",
            )
        return
    if not 0.0 <= check_share <= 1.0:
        raise ConfigError("--check-share", got=check_share, expected="0 to 1")
    if not wait_for_workers > 0:
        raise ConfigError("--wait-for-workers", got=wait_for_workers, expected="seconds above 0")
    if workers < (executor == "ray"):
        raise ConfigError("--workers", got=workers, expected="at least 1")


def config_first(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return CONFIG and the options around it, wherever CONFIG stands; None where there is none.

    An option in front of CONFIG takes the words that it can take: none if it is a switch, all of those that follow if
    it takes several and each is one of its choices, and one otherwise.
    """
    fields = {f"--{field.name.replace('_', '-')}": field for field in dataclasses.fields(RunOptions)}
    switches = {name for name, field in fields.items() if field.default is False}
    place = 0
    while place < len(arguments):
        word = arguments[place]
        if not word.startswith("-"):
            return word, [*arguments[:place], *arguments[place + 1 :]]
        name = word.replace("_", "-")
        place += 1
        if name in switches or name.startswith("--no-") or "=" in word or word in ("-h", "--help"):
            continue
        place += 1
        while name == "--log" and place < len(arguments) and arguments[place] in get_args(LoggerName):
            place += 1
        while name == "--vary" and place < len(arguments) and "=" in arguments[place]:
            place += 1
    return None, list(arguments)


def check_out(out: Path | None) -> None:
    """Refuse a file of --out that could not be written, before hours of work for it.

    Raises:
        OutputError: if it is a folder, or its folder cannot be made or written.
    """
    if out is None:
        return
    if out.is_dir():
        raise OutputError(
            f"--out {out}", got="a folder", expected="a file", remedy=f"Name one in it: {out / 'results.json'}"
        )
    trial = out.with_name(f".{out.name}.trial")
    atomic_write(trial, lambda file: None)
    trial.unlink()


def while_going_on(runs: Sequence[Path], seconds: float) -> Iterator[None]:
    """Yield every so many seconds while a process writes to one of the runs, and once after the last has ended.

    It ends sooner where nobody reads stdout any more.
    """
    from kip.storage.locks import has_writer

    going_on = True
    while going_on and not nobody_reads():
        going_on = any(has_writer(run) for run in runs)
        if going_on:
            time.sleep(seconds)
        yield


def save_json(out: Path | None, results: dict[str, Any]) -> None:
    """Write results to the file of --out, where one is given, with what the command has cost so far."""
    from kip.cli import cost

    if out is not None:
        results["cost"] = cost()
        atomic_write(out, lambda file: file.write(json.dumps(results, indent=1).encode()))


def call(function: Callable[..., dict[str, Any]], arguments: Sequence[str], *, prog: str) -> dict[str, Any]:
    """Run a command's function with the command line's options, which its arguments and their fields define.

    Networks and data sets are written as they are named in tables: a name, and what differs from its defaults, such as
    `--network "ConvNet-D3 width=32 norm=none"` and `--data "mnist shrink=2"`.
    """
    registry = help.registry()
    registry.primitive_rule(_written_by_name)
    # Reading the options and running the command are two things: only what goes wrong in the first is about options.
    given = help.described(lambda *values, **options: (values, options), function)
    try:
        with in_our_voice(prog), help.arranged():
            values, options = tyro.cli(
                given, prog=prog, description=_description(function), args=list(arguments), registry=registry
            )
    except _Misnamed as misnamed:
        raise misnamed.error from None
    return function(*values, **options)


def _description(function: Callable[..., Any]) -> str:
    """Return what a command's docstring says before its arguments, with the indentation of its examples."""
    return help.joined(inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:")[0])


def _written_by_name(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Return how tyro reads a network or a data set from one word; None for other types."""
    from kip.data import Data
    from kip.networks import Network

    kind: Any = info.type
    if kind not in (Data, Network):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME",
        instance_from_str=lambda words: _named(kind, words[0]),
        is_instance=lambda instance: isinstance(instance, kind),
        str_from_instance=lambda instance: [label(instance)],
    )


class _Misnamed(Exception):
    """Carries an error of ours past tyro, which takes a ValueError in a list for a form that does not fit."""

    def __init__(self, error: ConfigError):
        super().__init__(str(error))
        self.error = error


def _named(kind: type[Any], text: str) -> Any:
    try:
        return named(kind, text)
    except ConfigError as error:
        raise _Misnamed(error) from None


def named(kind: type[Any], text: str) -> Any:
    """Return the value of `NAME FIELD=VALUE ...`, the inverse of `label`.

    Raises:
        ValueError: if the text is of another form, or a value does not fit.
    """
    name, *given = text.split() or [""]
    fields = {}
    for part in given:
        field, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{kind.__name__} {text!r}", got=part, expected="NAME FIELD=VALUE ...")
        try:
            fields[field] = json.loads(value)
        except json.JSONDecodeError:
            fields[field] = value
    return kind(name=name, **fields)
