"""The class of a data set that each folder of a published set is: by the names of both, never by the alphabet alone.

Names are compared in this order, and the first way that gives each class one folder is taken:

1. as they are;
2. without regard to case, spaces, hyphens and underscores;
3. by numbers: folders `0`, `00007` or `class3`, whose numbers are 0 to C - 1; or kip's own `3_cat`;
4. by synonyms: `tench, Tinca tinca` is `tench`, and WordNet ids such as `n01440764` are the names of their synset.

`wordnet.tsv` has the 1000 ids of ImageNet-1k, tiny-imagenet-200's among them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from kip.errors import DataError, printable

SORTED = "sorted"
"""The order that takes the folders in that of their names."""
WORDNET = Path(__file__).with_name("wordnet.tsv")
NAMED = 3
"""Names that an error shows of each side."""


def numbers(folders: Sequence[str], class_names: Sequence[str], count: int, wanted: Sequence[str] = ()) -> np.ndarray:
    """Return the class of each folder, int64 (C,).

    Args:
        folders: the folders' names, in the order of `kip.data.image_folder.listing`.
        class_names: the data set's; empty where it has none.
        count: C, the number of classes, and of folders.
        wanted: `sorted`; a file with the name of a folder in each line, in the order of the classes; or these names;
            empty: they are matched.

    Raises:
        DataError: if names cannot be matched one to one, or `wanted` does not name each folder once.

    >>> numbers(["ant", "cat", "zebra"], ["zebra", "ant", "cat"], 3)
    array([1, 2, 0])
    """
    if wanted:
        return _as_wanted(folders, wanted)
    ways: list[Callable[[], list[set[int]]]] = [
        lambda: _by_keys(folders, class_names, lambda name: {name}),
        lambda: _by_keys(folders, class_names, lambda name: {plain(name)}),
        lambda: _by_number(folders, class_names, count),
        lambda: _by_keys(folders, class_names, _synonyms),
    ]
    for way in ways:
        if (matched := _one_to_one(folders, way())) is not None:
            return np.array(matched, np.int64)
    raise DataError(
        "the classes of a folder",
        got=f"folders {_some(folders)}",
        expected=f"the names {_some(class_names)} of the data set"
        if class_names
        else f"numbers from 0 to {count - 1}: the data set has no names of classes",
        remedy=f"Say which is which: --class-order {SORTED} takes the folders in the order of their names as classes "
        "0, 1, ...; --class-order FILE reads a folder's name from each line, in the order of the classes; or give "
        "these names themselves.",
    )


def _as_wanted(folders: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    if list(wanted) == [SORTED]:
        return np.arange(len(folders))
    names, source = [printable(name) for name in wanted], "--class-order"
    if len(wanted) == 1 and wanted[0] not in folders:
        source = f"--class-order {wanted[0]}"
        try:
            text = Path(wanted[0]).read_text(encoding="utf-8", errors="surrogateescape")
        except (OSError, ValueError) as error:
            raise DataError(source, got=str(error), expected=f"{SORTED}, a file, or the names of all folders") from None
        names = [printable(line.strip()) for line in text.splitlines() if line.strip()]
    if sorted(names) != sorted(folders):
        unknown = [name for name in names if name not in folders]
        missing = [name for name in folders if name not in names]
        raise DataError(
            source,
            got=f"{len(names)} names"
            + (f", {_some(unknown)} of no folder" if unknown else "")
            + (f", and not {_some(missing)}" if missing else ""),
            expected=f"each of the {len(folders)} folders once",
        )
    return np.array([names.index(name) for name in folders], np.int64)


def _by_keys(folders: Sequence[str], class_names: Sequence[str], keys: Callable[[str], set[str]]) -> list[set[int]]:
    """Return the classes that share a key with each folder."""
    by_key: dict[str, set[int]] = {}
    for number, name in enumerate(class_names):
        for key in keys(name):
            by_key.setdefault(key, set()).add(number)
    return [set().union(*(by_key.get(key, set()) for key in keys(folder))) for folder in folders]


def _by_number(folders: Sequence[str], class_names: Sequence[str], count: int) -> list[set[int]]:
    """Return the class that each folder numbers; none where numbers are not 0 to C - 1, or names contradict them."""
    parts = [re.fullmatch(r"(\D*)(\d+)", name) for name in folders]
    if all(parts) and len({match[1] for match in parts if match}) == 1:
        of_folders = [int(match[2]) for match in parts if match]
    else:
        ours = [re.fullmatch(r"(\d+)(?:_(.+))?", name) for name in folders]
        of_folders = [int(match[1]) for match in ours if match]
        names_are_numbers = list(class_names) == [str(number) for number in range(count)]
        named = () if names_are_numbers else [match for match in ours if match and match[2]]
        if not class_names or any(not _begins(class_names, int(match[1]), match[2]) for match in named):
            return [set() for _ in folders]
    if sorted(of_folders) != list(range(count)):
        return [set() for _ in folders]
    return [{number} for number in of_folders]


def _begins(class_names: Sequence[str], number: int, name: str) -> bool:
    """Return whether a class's name begins with the letters and digits of another, which may have been cut."""
    own, cut = (re.sub(r"[\W_]", "", plain("".join(text))) for text in (class_names[number : number + 1], name))
    return own.startswith(cut)


def _one_to_one(folders: Sequence[str], candidates: list[set[int]]) -> list[int] | None:
    """Return one class for each folder, each class once; None where that is not possible in just one way.

    A class that is the only one left for a folder is taken from the others. Folders that are WordNet ids and share
    their names, such as the two cranes, are told apart where all others are in the order of their ids.
    """
    left, taken = {place: set(classes) for place, classes in enumerate(candidates)}, {}
    while alone := [place for place, classes in left.items() if len(classes) == 1]:
        (number,) = left.pop(alone[0])
        taken[alone[0]] = number
        for classes in left.values():
            classes.discard(number)
    if left and all(_is_id(name) for name in folders):
        order = sorted(range(len(folders)), key=lambda place: folders[place])
        missing = sorted(set(range(len(folders))) - set(taken.values()))
        filled = {**taken, **dict(zip((place for place in order if place in left), missing))}
        fits = len(missing) == len(left) and all(filled[place] in classes for place, classes in left.items())
        if fits and [filled[place] for place in order] == list(range(len(folders))):
            return [filled[place] for place in range(len(folders))]
    return None if left or len(set(taken.values())) != len(folders) else [taken[place] for place in range(len(folders))]


def plain(name: str) -> str:
    """Return a name without regard to case, to the code of its letters, and to spaces, hyphens and underscores.

    >>> plain("Sports_Car ") == plain("sports car")
    True
    """
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()


def _synonyms(name: str) -> set[str]:
    """Return the names that mean the same, plain; those of a WordNet id too."""
    known = _wordnet().get(name, ()) if _is_id(name) else ()
    return {plain(part) for part in (name, *name.split(","), *known)}


def _is_id(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name) is not None


@cache
def _wordnet() -> dict[str, tuple[str, ...]]:
    """Return the synonyms of each WordNet id."""
    rows = (line.split("\t") for line in WORDNET.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {name: tuple(synonyms.split(", ")) for name, synonyms in rows}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
