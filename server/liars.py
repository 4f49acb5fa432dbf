"""The share of runs with a liar among their workers that end in the true bits: `python -m kip.server.liars`.

The workers are simulated and answer at once; the scheduler, its checks and the way back to a checkpoint are real. A run
is a sequence of steps, each made of the results of all its tasks, so that one wrong bit that counts changes the end.
Beside the honest workers, each with a key of its own, there is one of these:

- `hardware`: it states other hardware than all others do, so that its bits need not be theirs;
- `seldom`: it lies in a share of its tasks, drawn at random;
- `twice`: one key connects twice, and both tell the same lies;
- `returns`: as `seldom`, and it connects again each time that it is sent away.

One line of JSON for each of these and each share of lies: how many runs ended in the true bits, in how many the liar
was found out, how often that is to be expected, and how many honest keys were ever distrusted.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from kip.server.checks import TaintedError
from kip.server.member import Job, Settings
from kip.server.scheduler import Scheduler
from kip.workers.codec import Message, decode, encode
from kip.workers.worker import hardware

KINDS = ("hardware", "seldom", "twice", "returns")
RETURNS = 200
"""Times that a liar connects again in a run."""
NUMBERS = 8
"""Numbers of a result."""
CHECKPOINT = 10
"""Steps between checkpoints."""
LIE = np.float32(1.001)
"""By how much a wrong result is too large: no more than the tolerance between kinds of hardware."""


class Outcome(NamedTuple):
    """The outcome of a run: whether it ended in the true bits, who was distrusted, the liar's lies and all its
    tasks.
    """

    true: bool
    distrusted: tuple[str, ...]
    lies: int
    tasks: int
    steps: int


class _Session:
    """The message to simulated workers: nothing but the step."""

    epoch = 0

    def opening(self) -> bytes:
        return encode(Message("open"))

    def beginning(self, held: frozenset[str], holds_data: bool) -> tuple[bytes, frozenset[str]]:
        return encode(Message("begin", {"epoch": self.epoch})), held


class _Simulated:
    """A link whose worker answers at once; `lies` says in which tasks it lies."""

    def __init__(
        self, name: str, key: str, states: str, lies: Callable[[int, int], bool], on_close: Callable[[str], Any]
    ):
        self.name, self.key = name, key
        self._states, self._lies, self._on_close = states, lies, on_close
        self.tasks = self.lies = 0

    def send(self, payload: bytes, *, most: int = 0) -> Future[bytes]:
        answer: Future[bytes] = Future()
        answer.set_result(encode(self._answer(decode(payload))))
        return answer

    def _answer(self, message: Message) -> Message:
        if message.kind == "open":
            return Message("opened", {"holds": True, "pid": 1, "hardware": self._states})
        if message.kind == "begin":
            return Message("begun", message.fields)
        if message.kind == "ping":
            return Message("pong")
        step, place = message.fields["step"], message.fields["place"]
        result = compute(message.arrays["state"], place)
        self.tasks += 1
        if self._lies(step, place):
            self.lies += 1
            result = result * LIE
        return Message("result", {"epoch": message.fields["epoch"]}, {"result": result})

    def close(self, why: str = "") -> None:
        self._on_close(why)


def compute(state: np.ndarray, place: int) -> np.ndarray:
    """Return a task's result."""
    return np.sin(state * np.float32(1 + place))


def run(
    kind: str, rate: float, seed: int, *, honest: int = 2, steps: int = 200, tasks: int = 60, share: float = 0.01
) -> Outcome:
    """Simulate a run.

    Args:
        kind: of the liar; one of `KINDS`, or `nobody`.
        rate: the share of its tasks in which it lies.
        seed: draws them.
        honest: honest workers.
        steps: of the run.
        tasks: of a step.
        share: of the tasks that are computed twice.
    """
    session, draw = _Session(), random.Random(seed)
    liars: list[_Simulated] = []

    def lies(step: int, place: int) -> bool:
        # A task is a lie for all connections of the key, or for none; one that is computed again is drawn again.
        return random.Random(f"{seed} {step} {place} {session.epoch}").random() < rate

    def connect() -> _Simulated:
        number = len(liars)
        states = "another machine" if kind == "hardware" else hardware()
        liars.append(_Simulated(f"liar/{number}" if number else "liar", "liar", states, lies, again))
        return liars[-1]

    def again(why: str) -> None:
        if kind == "returns" and why and len(liars) < RETURNS:
            scheduler.join(connect())

    links = [
        _Simulated(f"honest-{number}", f"honest-{number}", hardware(), lambda step, place: False, lambda why: None)
        for number in range(honest)
    ]
    links += [connect() for _ in range({"nobody": 0, "twice": 2}.get(kind, 1))]
    draw.shuffle(links)  # who comes first is chance
    scheduler = Scheduler(links, session, settings=Settings(check_share=share, copy_after=60.0))
    saved, step, made = {-1: np.linspace(0.1, 1.0, NUMBERS, dtype=np.float32)}, 0, 0
    state = saved[-1]
    while step < steps:
        session.epoch += 1
        scheduler.base = max(saved)
        jobs = (_job(session, state, step, place) for place in range(tasks))
        try:
            state = _update(state, scheduler.run(jobs, tasks))
        except TaintedError as error:
            saved = {at: kept for at, kept in saved.items() if at <= error.base}
            scheduler.go_back(error.base)
            step, state = max(0, max(saved)), saved[max(saved)]
            continue
        step, made = step + 1, made + 1
        if step % CHECKPOINT == 0:
            saved[step] = state
    distrusted = tuple(witness.key for witness in scheduler.trust.all() if witness.distrusted)
    scheduler.close()
    done, told = sum(link.tasks for link in liars), sum(link.lies for link in liars)
    return Outcome(state.tobytes() == _truth(steps, tasks).tobytes(), distrusted, told, done, made)


def _job(session: _Session, state: np.ndarray, step: int, place: int) -> Job:
    fields = {"epoch": session.epoch, "step": step, "place": place}
    return Job(
        lambda: encode(Message("forward", fields, {"state": state})),
        state.shape,
        state.dtype,
        partial(compute, state, place),
    )


def _update(state: np.ndarray, results: Any) -> np.ndarray:
    """Return a state that any bit of any result changes."""
    digest = hashlib.blake2b(state.tobytes(), digest_size=4 * NUMBERS)
    for result in results:
        digest.update(result.tobytes())
    return np.frombuffer(digest.digest(), np.uint32).astype(np.float32) / np.float32(1 << 32)


def _truth(steps: int, tasks: int) -> np.ndarray:
    state = np.linspace(0.1, 1.0, NUMBERS, dtype=np.float32)
    for _ in range(steps):
        state = _update(state, (compute(state, place) for place in range(tasks)))
    return state


def measure(kind: str, rate: float, runs: int, **options: Any) -> dict[str, Any]:
    """Return what came of some runs with a liar of a kind.

    `expected` is the probability that it is found out, of N tasks that it computes and s N that it checks, s the share
    and r the rate: 1 - (1 - s r)^N (1 - r)^(s N). One that lies always is found out by its first result; one of other
    hardware is refused.

    Args:
        kind: of the liar.
        rate: the share of its tasks in which it lies.
        runs: how many; their seeds are 0, 1, ...
        **options: as `run` has them.
    """
    began = time.monotonic()
    outcomes = [run(kind, rate, seed, **options) for seed in range(runs)]
    honest = {key for outcome in outcomes for key in outcome.distrusted if key != "liar"}
    share = options.get("share", 0.01)
    each = options.get("steps", 200) * options.get("tasks", 60) / (options.get("honest", 2) + 1 + (kind == "twice"))
    return {
        "liar": kind,
        "lies": rate,
        "share": share,
        "runs": runs,
        "true_bits": sum(outcome.true for outcome in outcomes) / runs,
        "found_out": sum("liar" in outcome.distrusted for outcome in outcomes) / runs,
        "expected": round(_found_out(rate, share, each), 3) if kind != "hardware" else None,
        "wrong_bits_after_a_proof": sum(not outcome.true and "liar" in outcome.distrusted for outcome in outcomes),
        "honest_distrusted": len(honest),
        "steps_made": round(sum(outcome.steps for outcome in outcomes) / runs, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def _found_out(rate: float, share: float, tasks: float) -> float:
    return 1.0 if rate == 1.0 else 1 - (1 - share * rate) ** tasks * (1 - rate) ** (share * tasks)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line of JSON for each kind of liar and each share of lies."""
    parser = argparse.ArgumentParser(prog="python -m kip.server.liars", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of liars")
    parser.add_argument("--lies", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="shares of a liar's tasks")
    parser.add_argument("--runs", type=int, default=20, help="how many, for each")
    parser.add_argument("--steps", type=int, default=200, help="of a run")
    parser.add_argument("--tasks", type=int, default=60, help="of a step")
    parser.add_argument("--honest", type=int, default=2, help="honest workers")
    parser.add_argument("--check-share", type=float, default=0.01, help="of the tasks, that are computed twice")
    given = parser.parse_args(arguments)
    for kind, rate in itertools.product(given.kinds, given.lies):
        options = {"steps": given.steps, "tasks": given.tasks, "honest": given.honest, "share": given.check_share}
        print(json.dumps(measure(kind, rate, given.runs, **options)), flush=True)


if __name__ == "__main__":
    main()
