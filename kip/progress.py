"""Progress bars on stderr, of everything that may take longer than a moment."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

DELAY_SECONDS = 2
"""What ends sooner draws no bar: a run judges its set at every checkpoint, often within milliseconds."""

SCALED = 100_000
"""From this total on, counts are written as 12.3k and 4.5M."""


def can_draw() -> bool:
    """Return whether there is a stderr at all: a process that was started without one has None in its place."""
    return sys.stderr is not None


def progress_bar(total: int, what: str, *, shown: bool, unit: str = "it", initial: int = 0) -> tqdm[Any]:
    """Return a progress bar that disappears at its end; use it in `with`, and call its `update(n)`.

    Args:
        total: how many units there are.
        what: what goes on.
        shown: whether it is drawn at all.
        unit: what is counted.
        initial: how many there were before this process.
    """
    return tqdm(
        total=total, initial=initial, desc=what, unit=unit, unit_scale=total >= SCALED, leave=False,
        disable=not (shown and can_draw()), delay=DELAY_SECONDS, file=sys.stderr, dynamic_ncols=True,
    )  # fmt: skip
