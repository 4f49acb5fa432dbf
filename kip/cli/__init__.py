"""The command line: thin. Every command is one function that calls the library and returns its results as a dict.

`runs.py` makes and follows runs, `sets.py` looks at distilled sets, `machine.py` measures this machine or lends it.
Heavy imports happen inside the commands, so that `kip --help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from kip.cli import machine, runs, sets
from kip.errors import KipError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
CLOSED_PIPE = 141
"""Exit status where the reader of stdout has gone, as shells have it."""

COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "distill": runs.distill,
    "label-solve": runs.label_solve,
    "evaluate": sets.evaluate,
    "transfer": sets.transfer,
    "protocols": sets.protocols,
    "analyze": sets.analyze,
    "natural": sets.natural,
    "pretraining": sets.pretraining,
    "show": sets.show,
    "export": runs.export,
    "report": sets.report,
    "configs": runs.configs,
    "bench": machine.bench,
    "worker": machine.worker,
    "status": runs.status,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 2 (a user's error), 130 (Ctrl-C), 141 (closed pipe)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="kip: %(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        results = _dispatch(arguments)
        if "--json" in arguments:
            print(json.dumps(results))
        sys.stdout.flush()
    except KipError as error:
        print(f"kip: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kip: interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, as in `kip configs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return CLOSED_PIPE
    return 0


def _dispatch(arguments: list[str]) -> dict[str, Any]:
    takes_overrides = arguments[:1] in (["distill"], ["label-solve"])
    if takes_overrides and len(arguments) > 1 and not arguments[1].startswith("-"):
        return runs.with_overrides(arguments[0], arguments[1], arguments[2:])
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(command)
    return app.cli(
        prog="kip",
        description="Dataset distillation with infinitely wide networks. `kip COMMAND --help` explains each command.",
        args=arguments or ["--help"],
    )
