"""The command line: thin. Every command is one function that calls the library and returns its results as a dict.

A command's options are the arguments of its function, and the fields of the configuration that it takes. Its file is
imported when it is run, so that `kip --help` answers at once.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from kip.cli import compilation, failures, streams
from kip.errors import ConfigError, KipError, did_you_mean
from kip.machine import keep_freed_memory, peak_memory_mib
from kip.progress import Work, say, stage
from kip.runs import stopping

FAILED = 2
"""Exit status after an error in words."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
CLOSED_PIPE = 141
"""Exit status where the reader of stdout has gone, as shells have it."""


BEGAN: ContextVar[float] = ContextVar("began")
"""The monotonic time at which the command began, in seconds."""


def cost() -> dict[str, float | None]:
    """Return what the command has cost so far: its seconds, and the largest memory of its process in MiB."""
    return {"seconds": round(time.monotonic() - BEGAN.get(), 2), "peak_memory_mib": peak_memory_mib()}


class Command(NamedTuple):
    """A command: the place of its function, and its line in `kip --help`."""

    place: str
    """MODULE:FUNCTION within `kip.cli`."""
    summary: str
    """The first line of the function's docstring."""
    is_quiet: bool = False
    """True if stderr says nothing of its progress: it ends at once, or stays until it is stopped."""

    def function(self) -> Callable[..., dict[str, Any]]:
        """Import and return the function."""
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(f"kip.cli.{module}"), name)


GROUPS: dict[str, dict[str, Command]] = {
    "run": {
        "distill": Command("runs:distill", "Distil a data set: run any method to its end, and export what it learned."),
        "label-solve": Command("runs:label_solve", "Solve for the labels of fixed natural images in closed form."),
        "configs": Command("configurations:configs", "List the configurations that come with kip: families, or names."),
        "choose": Command(
            "choose:choose",
            "Choose a method by three questions, with what each costs and reaches on a small machine.",
            is_quiet=True,
        ),
        "status": Command("runs:status", "Tell how far a run is and what its workers do.", is_quiet=True),
    },
    "judge": {
        "evaluate": Command("judge:evaluate", "Evaluate distilled sets on their data sets."),
        "transfer": Command("judge:transfer", "Train finite networks on a distilled set by the paper's scheme."),
        "compare": Command("judge:compare", "Compare distilled sets under named protocols: one table."),
        "pretraining": Command("judge:pretraining", "Pre-train networks on sets and use them on a second data set."),
        "dcs": Command("judge:dcs", "Ask whether methods' losses rank sets as networks do."),
        "scaling": Command("judge:scaling", "Fit the scaling law of repeated data to a comparison."),
        "natural": Command("judge:natural", "Score random natural images as support sets."),
    },
    "kernels": {
        "kernel": Command("matrices:kernel", "Compute whole kernel matrices into a folder."),
    },
    "look": {
        "show": Command("look:show", "Draw a distilled set as a picture: its images by class, and its labels."),
        "report": Command("look:report", "Write a run's report: one HTML page that needs no other file."),
        "analyze": Command("look:analyze", "Measure a distilled set: dimension, spectrum, neighbours, labels."),
    },
    "share": {
        "sets": Command("share:sets", "List the distilled sets that come with kip.", is_quiet=True),
        "export": Command("share:export", "Export a run's distilled set as NumPy."),
        "import": Command("share:import_", "Import a set that others have published."),
    },
    "shell": {
        "completion": Command(
            "completion:completion", "Print what completes commands, options and configurations in a shell."
        ),
    },
    "lend": {
        "worker": Command("work:worker", "Compute kernel tiles for a run on another machine.", is_quiet=True),
        "worker-key": Command("work:worker_key", "Make the key with which a worker connects to a run.", is_quiet=True),
    },
    "measure": {
        "bench kernel": Command("bench:kernel", "Measure kernel blocks beside neural-tangents."),
        "bench function": Command("bench:function", "Measure kip.kernel inside JAX programs beside KIP's blocks."),
        "bench growth": Command("bench:growth", "Draw how an entry's time grows with side, depth and block."),
        "bench step": Command("bench:step", "Measure the parts of a KIP step."),
        "bench devices": Command("bench:devices", "Draw when each device of this host computes in a step."),
        "bench methods": Command("bench:methods", "Measure updates and memory of methods with finite networks."),
        "bench networks": Command("bench:networks", "Measure updates of a ConvNet-D3 and their parts."),
        "bench matching": Command("bench:matching", "Measure steps of DC and DM beside a plain PyTorch loop's."),
        "bench unrolling": Command("bench:unrolling", "Draw the memory of MTT's student against its steps."),
        "bench loader": Command("bench:loader", "Measure how fast pictures are decoded, read and preprocessed."),
        "bench memory": Command("bench:memory", "Measure what an update gains where freed memory is kept."),
        "bench gpu": Command("bench:gpu", "Measure what an accelerator makes of the engine, and of KIP."),
        "bench compiled": Command("bench:compiled", "Compile the engine for a GPU that is not here, and count."),
    },
}
COMMANDS: dict[str, Command] = {name: command for group in GROUPS.values() for name, command in group.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    It is 0; 2 for an error in words; 130 after Ctrl-C; 141 where the reader of stdout has gone; and 128 and the
    signal's number where another signal stopped the command (`kip.runs.stopping`).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    BEGAN.set(time.monotonic())
    atexit.unregister(gc.freeze)
    # A last look at some 200 000 objects of JAX's would keep the shell waiting for a second after the result.
    atexit.register(gc.freeze)
    with streams.lasting() as out:
        logging.basicConfig(format="kip: %(levelname)s: %(message)s", level=logging.WARNING, handlers=[_BesideBars()])
        logging.getLogger("kip.data").setLevel(logging.INFO)  # one line says what a folder of pictures holds
        compilation.keep_programs()
        keep_freed_memory()
        status = _run(arguments)
        out.flush()
        if isinstance(out.error, BrokenPipeError):  # as in `kip configs | head`
            return status or CLOSED_PIPE
        if out.error is not None and status == 0:
            print(f"kip: error: {streams.unprinted(out.error)}", file=sys.stderr)
            return FAILED
        return status


class _BesideBars(logging.Handler):
    """Writes log records to stderr above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            say(self.format(record))
        except Exception:  # as logging's own handlers: what is said must not end the work
            self.handleError(record)


def _run(arguments: list[str]) -> int:
    """Run a command, and say what became of it; return the exit status."""
    is_worker = arguments[:1] == ["worker"]  # it ends by itself as soon as its server does
    try:
        with contextlib.nullcontext() if is_worker else stopping.signals_stop():
            results = _dispatch(arguments)
            if "--json" in arguments:
                print(json.dumps({**results, "cost": results.get("cost") or cost()}))
    except KeyboardInterrupt:
        print("kip: interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except stopping.Stopped as stop:
        after = "" if stop.step is None else f"; step {stop.step} is saved, and the same command goes on from there"
        print(f"kip: {stop}{after}", file=sys.stderr)
        if "--json" in arguments:
            print(json.dumps({"error": {"kind": "Stopped", "problem": str(stop), "step": stop.step}}))
        return stop.status
    except Exception as raised:
        error = raised if isinstance(raised, KipError) else failures.in_our_voice(raised)
        if error is None:
            raise
        print(f"kip: error: {error}", file=sys.stderr)
        if "--json" in arguments:
            print(json.dumps({"error": error.to_dict()}))
        return FAILED
    return 0


def _dispatch(arguments: list[str]) -> dict[str, Any]:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return {}
    if arguments[0] == "--version":
        import kip

        print(f"kip {kip.__version__}")
        return {"version": kip.__version__}
    words = 2 if any(command.startswith(f"{arguments[0]} ") for command in COMMANDS) else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if words == 2 and arguments[1:] in ([], ["-h"], ["--help"]):
        print(_overview(arguments[0]))
        return {}
    if name not in COMMANDS:
        meant = did_you_mean(name, COMMANDS, "`kip {}`")
        raise ConfigError("command", got=repr(name), remedy=f"{meant}`kip --help` lists the commands.")
    if "" in arguments:  # as a path it would be the working folder
        option = arguments[arguments.index("") - 1]
        raise ConfigError(f"the argument after {option}", got="an empty one", expected="a value")
    with _goes_on(name, rest) as work:
        if work.is_shown:
            with stage("loading JAX", names=False), contextlib.suppress(ImportError):  # what needs it says so better
                importlib.import_module("jax")
            with stage("loading kip", names=False):
                COMMANDS[name].function()
        from kip.cli import options

        if name in ("distill", "label-solve"):
            config, others = options.config_first(rest)
            if config is not None:
                from kip.cli import runs

                return runs.with_overrides(name, config, others)
        return options.call(COMMANDS[name].function(), rest, prog=f"kip {name}")


def _goes_on(name: str, rest: list[str]) -> Work:
    """Return the outermost work of a command, which says within a second or two what begins.

    Nothing is said of help, nor of commands that end at once or stay until they are stopped.
    """
    subject = f" {rest[0]}" if rest and not rest[0].startswith("-") else ""
    tells = not COMMANDS[name].is_quiet and not {"-h", "--help", "--watch"} & set(rest)
    return stage(f"{name}{subject}", shown=tells, names=False)


def _overview(first: str = "") -> str:
    """Return the commands by group, one line each; all, or those that begin with a word."""
    groups = {
        group: {name: command for name, command in commands.items() if name.startswith(first)}
        for group, commands in GROUPS.items()
    }
    width = max(map(len, COMMANDS)) + 2
    lines = [f"usage: kip {first or 'COMMAND'} ...", "", "Dataset distillation, from infinite networks to coresets."]
    for group, commands in groups.items():
        if commands:
            lines += ["", f"{group}:", *(f"  {name:{width}}{command.summary}" for name, command in commands.items())]
    return "\n".join(
        [*lines, "", "`kip COMMAND --help` explains a command, with examples; `kip --version` prints the version."]
    )
