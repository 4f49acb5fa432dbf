"""`kip choose`: what it says is what was measured, with a terminal and without."""

import json
import re
from pathlib import Path

import pytest

from kip import experiment
from kip.cli import choose, main

DOCS = Path(__file__).parents[2] / "docs"


def measured(row: str, of: str) -> list[str]:
    """Return the cells of a row of a section of the main table."""
    page = (DOCS / "main_table.md").read_text(encoding="utf-8")
    section = page.partition(f"### {of}\n")[2].partition("\n### ")[0]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("choice", [choice for choice in choose.TABLE if choice.row], ids=lambda choice: choice.name)
def test_every_figure_is_the_main_tables(choice):
    per_class = 1 if choice.name in ("MTT", "KIP, ConvNet kernel") else 10
    _, hard, _, _, own, seconds = measured(choice.row, f"CIFAR-10, {per_class} a class")
    assert choice.seconds == int(seconds)
    assert choice.accuracy == float(own if choice.reader == "kernels" else hard.split()[0])


@pytest.mark.parametrize("choice", choose.TABLE, ids=lambda choice: choice.name)
def test_every_choice_names_a_configuration_that_comes_with_kip(choice):
    assert experiment.load(choice.config)


def test_the_page_has_the_table():
    assert choose.as_markdown() in (DOCS / "choosing.md").read_text(encoding="utf-8")


def test_a_small_machine_is_led_to_dm_and_an_accelerator_to_all():
    small = [choice.name for choice in choose.fitting("networks", "images", "minutes")]
    assert small[0] == "DM"
    assert not {"FRePo", "MTT"} & set(small)
    assert {"DM", "FRePo", "MTT"} <= {choice.name for choice in choose.fitting("networks", "images", "accelerator")}


def test_without_a_terminal_nothing_is_asked(capsys):
    assert main(["choose", "--reader", "kernels", "--time", "minutes", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [choice["name"] for choice in json.loads(last)["choices"]] == ["KIP, FC1 kernel", "RFAD", "Label Solve"]
    wanted = re.compile(r"KIP, FC1 kernel +5 min +48\.9 % +kip distill main_table:cifar10_kip_ipc10")
    assert any(wanted.match(line) for line in lines)


def test_where_nothing_fits_the_nearest_is_named(capsys):
    assert main(["choose", "--reader", "pretraining", "--learned", "images", "--time", "minutes"]) == 0
    out = capsys.readouterr().out
    assert "No method does just that" in out
    assert "KRR-ST" in out


def test_on_a_terminal_three_questions_are_asked(capsys, monkeypatch):
    typed = iter(["1", "seven", "3", ""])
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: (asked.append(text), next(typed))[1])
    answers = [choose._asked(name) for name in choose.QUESTIONS]
    assert answers == ["networks", "nothing", None]
    assert len(asked) == 4
    assert "Who will learn from the set?" in capsys.readouterr().out
