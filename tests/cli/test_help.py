"""Help texts: what people read before they run anything."""

from __future__ import annotations

import contextlib
from typing import Annotated

import pytest
import tyro

from kip.cli import COMMANDS, help, main, options
from kip.networks import Network

SHORT = """Do a thing that takes more than one line to say, so that the line is longer than a terminal is wide, by some.

        kip thing A B

    Args:
        first: The first value, of which there is something to say that takes
            two lines of the source. The default is none.
        second: The second: with a colon.
        json: Print one JSON object.
"""


def thing(*, first: int | None = None, second: tuple[float, ...] = (), json: bool = False) -> dict:
    return {}


thing.__doc__ = SHORT


def text_of(capsys, call) -> str:
    with contextlib.suppress(SystemExit):
        call()
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_no_default_is_written_where_the_text_says_what_happens(capsys):
    text = text_of(capsys, lambda: options.call(thing, ["--help"], prog="kip thing"))
    assert "None" not in text
    assert "(default: )" not in text
    assert "(default: False)" in text


def test_the_lines_of_the_source_do_not_break_the_text(capsys):
    text = text_of(capsys, lambda: options.call(thing, ["--help"], prog="kip thing"))
    assert "takes two lines" in " ".join(text.replace("│", " ").split())
    introduction = text.partition("╭")[0].splitlines()
    assert max(map(len, introduction)) <= 80
    assert "    kip thing A B" in introduction
    assert "--first INT" in text
    assert "--second [NUMBER ...]" in text


def test_a_configurations_method_comes_first(capsys):
    text = text_of(capsys, lambda: main(["distill", "digits_convnet", "--help"]))
    titles = [line.strip("╭╮─ ") for line in text.splitlines() if line.startswith("╭")]
    assert titles[0] == "method options"
    assert titles.index("options") > 0
    assert "(default: None)" not in text
    assert "{None}" not in text


@pytest.mark.parametrize("name", ["compare", "transfer", "export", "choose"])
def test_commands_keep_every_option_and_its_help(name, capsys):
    text = " ".join(text_of(capsys, lambda: main([name, "--help"])).replace("│", " ").split())
    assert "(default: None)" not in text
    for option in COMMANDS[name].function().__annotations__:
        if option in ("json", "out", "step", "networks", "reader"):
            assert f"--{option}" in text
    assert "Print one JSON object with the results as the last line of stdout." in text


def test_boxes_beside_each_other_stay_where_they_are():
    text = "usage\n╭─ a ─╮ ╭─ method ─╮\n│ x   │ │ y        │\n╰─────╯ ╰──────────╯\n"
    assert help.in_order(text, "method") == text


def test_metavars_are_words():
    assert help.metavar(Annotated[int | None, "anything"]) == "INT"
    assert help.metavar(tuple[Network, ...]) is None
    own = Annotated[int | None, tyro.conf.arg(metavar="STEP")]
    assert help._annotated(own).__metadata__[-1].metavar is None
