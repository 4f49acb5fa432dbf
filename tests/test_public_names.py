"""The public names: the same for Python, for type checkers and on the page."""

import ast
import importlib
from pathlib import Path

import kip
from helpers.kinds import some

ROOT = Path(__file__).parents[1]
STUB = ast.parse((ROOT / "kip" / "__init__.pyi").read_text(encoding="utf-8"))


def test_type_checkers_know_every_name_as_what_it_is():
    stubbed, listed = {}, []
    for node in STUB.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = importlib.import_module(some(node.module))
                known = getattr(module, alias.name, None)
                if known is None:
                    known = importlib.import_module(f"{node.module}.{alias.name}")
                stubbed[alias.asname] = known
        if isinstance(node, ast.Assign):
            listed = ast.literal_eval(node.value)
    assert sorted(stubbed) == sorted(listed) == kip.__all__ == dir(kip)
    for name in kip.__all__:
        assert getattr(kip, name) is stubbed[name], name


def page_of_the_api():
    """Return the members that docs/api.md shows of each module; None for all of them."""
    shown = {}
    for part in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("::: ")[1:]:
        members = part.partition("members: [")[2].partition("]")[0]
        shown[part.split()[0]] = [name.strip() for name in members.split(",")] if members else None
    return shown


def test_every_name_stands_on_the_page_of_the_api():
    shown = {}
    for module, members in page_of_the_api().items():
        loaded = importlib.import_module(module)
        shown[id(loaded)] = module
        for name in vars(loaded) if members is None else members:
            assert hasattr(loaded, name), f"{module}.{name}"
            shown[id(getattr(loaded, name))] = module
    assert [name for name in kip.__all__ if id(getattr(kip, name)) not in shown] == []
