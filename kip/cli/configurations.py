"""The command that shows the configurations that come with kip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from kip.cli.options import Json, Words
from kip.errors import ConfigError, did_you_mean


class Family(NamedTuple):
    """Configurations that are shown together, in one line."""

    files: str
    """Patterns of the files' names, with spaces between them."""
    about: str
    """A description that fits the line."""

    def holds(self, name: str) -> bool:
        """Return whether a configuration, or a row's table, belongs to the family."""
        return any(fnmatchcase(name.partition(":")[0], pattern) for pattern in self.files.split())


SINGLES = (
    Family("digits_*", "The quick start: KIP on small digits, in a minute"),
    Family("mnist_* mnist14_*", "KIP, FRePo, RFAD, RCIG, LD, DD, DC, DSA, DM"),
    Family("cifar10_* cifar16_*", "KIP, RCIG, DC, DSA, DM, MTT, DATM, SRe2L, RDED"),
    Family("emnist_* fashion_*", "LD and KRR-ST: from one data set to another"),
)
TABLES = (
    Family("main_table", "Methods that learn, in minutes on two CPU cores"),
    Family("coresets", "Natural images, chosen by the common rules"),
    Family("selections", "Natural images, chosen by every other rule"),
    Family("mnist_label_baselines", "True labels and smoothed ones, to compare with LD"),
    Family("dc dsa dm mtt ftd datm", "Matching methods at their published sizes"),
    Family("decoupled", "SRe2L, DWA, RDED and kin at their published sizes"),
    Family("rethinking", "Chosen images of CIFAR-100 at published sizes"),
    Family("table_1", "KIP and Label Solve: the paper's main table"),
    Family("table_a*", "KIP and Label Solve: the tables of its appendix"),
    Family("figure_1", "KIP under three kernels at once: its figure 1"),
)


def configs(words: Words = (), *, json: Json = False) -> dict[str, Any]:
    """List the configurations that come with kip: their families, or the names that hold some words.

        kip configs
        kip configs cifar10 dsa

    A name comes with the published result that the configuration reproduces, or with what it is.

    Args:
        words: The words that a name must hold, all of them. Without any, the families are listed.
        json: Print one JSON object with the results as the last line of stdout. It has every name that the words leave.
    """
    from kip import experiment

    known = experiment.configs()
    names = matching(words, known)
    listed = {
        name: str(known[name].reference) if known[name].reference else experiment.describe(name) for name in names
    }
    if words:
        width = max(map(len, names))
        lines: Iterable[str] = (f"{name:{width}}  {line}" for name, line in listed.items())
    else:
        lines = overview(names)
    for line in lines:
        print(line)
    return {"configs": listed}


def matching(words: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the names that hold every word, as `cifar10` and `dsa`, in capitals or not.

    Raises:
        ConfigError: if there is none.
    """
    names = list(names)
    if found := [name for name in names if all(word.lower() in name for word in words)]:
        return found
    unknown = [word for word in words if not any(word.lower() in name for name in names)]
    parts = dict.fromkeys(part for name in names for part in [name.partition(":")[0], *re.split("[_:]", name)])
    wanted = " and ".join(map(repr, unknown or words))
    raise ConfigError(
        f"no configuration has {wanted} in its name",
        remedy="".join(did_you_mean(word, parts) for word in unknown) + "`kip configs` lists the families.",
    )


def overview(names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the families, with the numbers of their members; they fill less than a screen."""
    rows = [name for name in names if ":" in name]
    singles = [name for name in names if ":" not in name]
    yield f"{len(singles)} configurations: DATA_METHOD_N, with N images in all"
    yield from _lines(SINGLES, singles)
    yield f"{len(rows)} rows of tables: TABLE:ROW, where ipcN means N images per class"
    yield from _lines(TABLES, rows)
    yield ""
    yield "`kip configs cifar10 dsa` lists the names that have these words in them, and"
    yield "`kip distill NAME` runs one, as `kip distill digits_convnet`."


def _lines(families: Iterable[Family], names: Sequence[str]) -> Iterator[str]:
    for family in families:
        yield f"  {family.files:22} {sum(map(family.holds, names)):4}  {family.about}"
