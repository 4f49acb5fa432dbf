"""The countable part of plain words: how docstrings begin, what options say of themselves, what the formatter skips."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kip import cli

ROOT = Path(__file__).parents[1]
QUESTIONS = ("What", "How", "Whether", "Who", "Where", "When", "Which")
"""Words that begin a clause in place of a sentence: such a docstring needs its heading to be read."""
SHORTEST, LONGEST = 12, 400
"""Letters of an option's help."""
MOST_SKIPPED = 40
"""Statements, tables of numbers or names, that the formatter leaves as they are."""


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring, those below attributes and constants too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value.strip()


def field_helps(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield CLASS.FIELD and the help of each documented field of the configuration's values."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        if "value" not in decorators and node.name != "RunOptions":
            continue
        for field, below in zip(node.body, node.body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                yield f"{node.name}.{ast.unparse(field.target)}", ast.literal_eval(below.value)


def argument_helps(docstring: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the help of each entry below `Args:`."""
    _, _, entries = docstring.partition("\nArgs:\n")
    entries = re.split(r"\n\n|\n(?=\S)", entries)[0]
    for entry in re.split(r"\n(?=    \w+: )", "\n" + entries)[1:]:
        name, _, text = entry.strip().partition(": ")
        yield name, text


def options() -> dict[str, str]:
    """Return the help of every option: of commands, and of the values of configurations."""
    found: dict[str, str] = {}
    for path in sources("kip"):
        for name, text in field_helps(ast.parse(path.read_text(encoding="utf-8"))):
            found[f"{path.relative_to(ROOT)}: {name}"] = text
    for command, entry in cli.COMMANDS.items():
        module, _, function = entry.place.partition(":")
        tree = ast.parse((ROOT / f"kip/cli/{module}.py").read_text(encoding="utf-8"))
        (node,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
        for name, text in argument_helps(ast.get_docstring(node) or ""):
            found[f"kip {command} --{name}"] = text
    return {place: " ".join(text.split()) for place, text in found.items()}


@pytest.mark.parametrize("folder", ["kip", "server", "workers", "configs"])
def test_no_docstring_begins_as_a_question(folder):
    begin = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in sources(folder)
        for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if re.match(rf"({'|'.join(QUESTIONS)})\b", text)
    ]
    assert begin == []


def test_the_help_of_an_option_is_a_sentence_of_its_own():
    helps = options()
    assert len(helps) > 400
    assert {place: text for place, text in helps.items() if not SHORTEST <= len(text) <= LONGEST} == {}
    assert {place: text for place, text in helps.items() if not text.endswith(".")} == {}
    fragments = rf"[a-z]{{3,}}\b|({'|'.join(QUESTIONS)})\b"  # shorter words are letters of a formula
    assert {place: text for place, text in helps.items() if re.match(fragments, text)} == {}


def test_what_the_formatter_leaves_alone_is_little():
    mark = "# fmt: " + "skip"
    counts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count(mark)
        for path in sources("kip", "server", "workers", "configs", "tests", "examples")
    }
    assert sum(counts.values()) < MOST_SKIPPED, {path: count for path, count in counts.items() if count}
