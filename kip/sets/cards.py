"""The distilled sets that come with kip, each with a card that says what it is, what it scores and how it was made.

`shipped/NAME.npz` is a set, `shipped/cards.json` holds the cards by name. A further set is a file more and a card more;
`tests/sets/test_cards.py` holds them against each other.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "shipped"
CARDS = "cards.json"


class Card(NamedTuple):
    """The statements about a distilled set, for people.

    Attributes:
        name: the name that `kip.load_set` takes; None for a set that does not come with kip.
        data: the name of the data set that it was learned from.
        source: where that data set is from: its authors, or the paper to cite; None: not known.
        method: the method's name.
        judge: what it is scored by: a kernel's name, or a network's.
        images: how many images it has.
        score: its accuracy on the whole test split of its data set, under its judge; a fraction. None: not tested.
        natural: the score of the natural images that it started from; None: not known.
        preprocess: what new images go through; sets that are standardised bring all of it, and whitenings are fitted to
            the data set again.
        command: the command that made it; None: not known.
        evaluate: the command that gives its score again.
        seconds: the time that making it took, on two CPU cores that had other work too; None: not known.
        sha256: of its preprocessed images and labels.
    """

    name: str | None
    data: str
    source: str | None
    method: str
    judge: str
    images: int
    score: float | None
    natural: float | None
    preprocess: str
    command: str | None
    evaluate: str
    seconds: float | None
    sha256: str

    def __str__(self) -> str:
        score = "not tested" if self.score is None else f"{100 * self.score:.1f} % on test under {self.judge}"
        natural = "" if self.natural is None else f", natural images {100 * self.natural:.1f} %"
        return f"{self.name or self.data}: {self.images} images of {self.data} by {self.method}, {score}{natural}"


@functools.cache
def cards() -> dict[str, Card]:
    """Return the cards of the sets that come with kip, by name."""
    text = (FOLDER / CARDS).read_text(encoding="utf-8")
    return {name: Card(name=name, **about) for name, about in json.loads(text).items()}


def resolved(path: Path | str) -> Path:
    """Return the file of a set that comes with kip, where a path is its name (NAME or NAME.npz); else the path.

    What exists on the disk comes first.
    """
    path = Path(path)
    name = path.name.removesuffix(".npz")
    if path.exists() or path.parent != Path() or name not in cards():
        return path
    return FOLDER / f"{name}.npz"


def is_shipped(path: Path | str) -> bool:
    """Return whether a path names a set that comes with kip."""
    return resolved(path).parent == FOLDER
