"""What errors say: one sentence with one end, the name that was meant, nothing that a terminal would obey."""

from typing import Literal

import pytest
import tyro

from kip.errors import ConfigError, DataError, KipError, in_our_voice, printable
from kip.evaluate.comparison import Comparison
from kip.networks import Network

CAT = "\N{CJK UNIFIED IDEOGRAPH-732B} \N{GRINNING FACE}"


def test_a_question_ends_by_its_mark():
    assert str(KipError("unknown; did you mean a?")) == "unknown; did you mean a?"
    assert str(KipError("unknown", got="b", remedy="Did you mean a?")) == "unknown; got b. Did you mean a?"
    assert str(KipError("wrong")) == "wrong."


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Network("ResNet11"), r"Did you mean ResNet1[08]\?$"),
        (lambda: Comparison(("hl",)), r"Did you mean HL\?$"),
        (lambda: Comparison(("SL+kd",)), r"Did you mean SL\+KD\?$"),
    ],
)
def test_a_mistyped_name_in_a_value_is_answered_with_the_nearest(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_wrong_choice_is_said_once():
    def command(*, get: Literal["ntk", "nngp"] = "ntk") -> str:
        return get

    with pytest.raises(ConfigError) as caught, in_our_voice("kip evaluate"):
        tyro.cli(command, args=["--get", "foo"])
    text = str(caught.value)
    assert text.startswith("invalid choice 'foo' for argument '--get'")
    assert text.lower().count("invalid choice") == 1
    assert "'ntk', 'nngp'" in text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (f"plain {CAT} é", f"plain {CAT} é"),
        ("a\x1b[31mb\x07\r\n\tc\x7f\x9b", r"a\x1b[31mb\x07\r\n\tc\x7f\x9b"),
        ("caf\udce9 \ud800", r"caf\xe9 \ud800"),
        ("abc\u202ecba\u2028", r"abc\u202ecba\u2028"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped_once(given, shown):
    assert printable(given) == shown
    assert printable(shown) == shown
    assert str(DataError(given.replace("\n", "").replace("\t", ""))) == shown.replace(r"\n\t", "") + "."
