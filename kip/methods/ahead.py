"""The next step's target batch, made while this step computes: augmentation takes one core, kernels take the rest."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Ahead:
    """One result that is made in a thread of its own: that of the step after the last one asked for.

    The function must be pure; then this changes when it is called, and nothing else.
    """

    def __init__(self) -> None:
        """Start no thread yet."""
        self._next: tuple[dict[str, Any], Future[Any]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kip-ahead")

    def __call__(self, make: Callable[..., T], *, step: int, **others: Any) -> T:
        """Return make(step=step, **others), and begin that of the next step.

        Args:
            make: the same function at every call.
            step: the step.
            others: its other arguments, which usually stay the same from step to step.
        """
        wanted = {"step": step, **others}
        prepared, self._next = self._next, None
        result = prepared[1].result() if prepared is not None and prepared[0] == wanted else make(**wanted)
        following = {"step": step + 1, **others}
        self._next = following, self._thread.submit(make, **following)
        return result
