"""The examples in docstrings give what stands below them."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules():
    """Return the names of all modules whose docstrings hold an example."""
    names = []
    for folder, package in (("kip", "kip"), ("server", "kip.server"), ("workers", "kip.workers")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                below = path.relative_to(ROOT / folder).with_suffix("").parts
                names.append(".".join((package, *below)).removesuffix(".__init__"))
    return names


def test_there_are_examples():
    assert len(modules()) >= 9


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_give_what_they_say(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted
    assert outcome.failed == 0
