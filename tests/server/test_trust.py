"""Whom a run believes: verdicts over opinions, what is kept of a key, and simulated runs with a liar."""

import json

import numpy as np
import pytest

from kip.server import liars, trust
from kip.server.checks import Opinion, TaintedError, Verdict, judge
from kip.server.member import Member
from kip.server.service import Lasting
from kip.server.trust import Trust, Witness, words

OURS, THEIRS = "our hardware", "other hardware"


class Link:
    def __init__(self, key):
        self.name = self.key = key


def opinions(*given, hardware=OURS):
    """Opinions from (key, number) pairs; the key "own" is this process's."""
    made = []
    for key, number in given:
        member = None if key == "own" else Member(Link(key), Witness(key), hardware=hardware)
        made.append(Opinion(member, np.array([1.0, number], np.float32)))
    return made


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("a", 1)], "other"),
        ([("a", 1), ("b", 1)], Verdict((0, 1))),
        ([("a", 1), ("b", 2)], "own"),
        ([("a", 1), ("b", 2), ("own", 1)], Verdict((0, 2), (1,))),
        ([("a", 1), ("b", 2), ("own", 2)], Verdict((1, 2), (0,))),
        ([("a", 1), ("b", 2), ("own", 3)], "own"),
        ([("a", 1), ("b", 2), ("own", 3), ("own", 3)], Verdict((2, 3), (0, 1))),
        ([("a", 1), ("b", 2), ("own", 3), ("own", 1)], Verdict((0, 3), (1, 2))),
        ([("a", 1), ("b", 2), ("own", 3), ("own", 4), ("own", 5)], "undecided"),
        ([("a", 1), ("own", 2)], "own"),
        ([("a", 1), ("own", 2), ("own", 2)], Verdict((1, 2), (0,))),
        ([("a", 1), ("own", 2), ("own", 1)], Verdict((0, 2), (1,))),
    ],
)
def test_this_process_decides_between_keys_of_its_hardware(given, expected):
    assert judge(opinions(*given), OURS, others=True) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("a", 1), ("b", 1.0001), ("own", 1.00005)], "other"),
        ([("a", 1), ("b", 1.0001), ("own", 1.00005), ("c", 1)], Verdict((0, 2, 3), (1,))),
        ([("a", 1), ("b", 1.0001), ("own", 1.00005), ("c", 1.0001)], Verdict((1, 2, 3), (0,))),
        ([("a", 1), ("b", 2), ("own", 1.00005)], Verdict((0, 2), (1,), bits=False)),
        ([("a", 1), ("own", 1.00005)], Verdict((0, 1), bits=False)),
        ([("a", 2), ("own", 1), ("own", 1)], Verdict((1, 2), (0,))),
    ],
)
def test_between_keys_of_other_hardware_the_tolerance_decides_and_then_a_third_of_them(given, expected):
    assert judge(opinions(*given, hardware=THEIRS), OURS, others=True) == expected


def test_where_this_process_fails_or_nobody_is_left_it_says_so():
    two = [("a", 1), ("b", 2)]
    assert judge(opinions(*two), OURS, own_fails=True, others=True) == "other"
    assert judge(opinions(*two), OURS, own_fails=True) == "undecided"
    assert judge(opinions(*two, ("c", 2)), OURS, own_fails=True) == Verdict((1, 2), (0,))
    assert judge(opinions(("a", 1), ("b", 1.0001), ("own", 1), hardware=THEIRS), OURS) == "undecided"


def test_a_key_is_late_once_for_all_that_it_held_at_the_time():
    witness = Witness("a")
    for sent_at in (1.0, 1.5, 2.0):
        witness.note_late(sent_at, 5.0)
    assert (witness.late, witness.punctual) == (1, True)
    witness.note_late(6.0, 9.0)
    assert (witness.late, witness.punctual) == (2, False)


def test_lies_and_unchecked_results_outlive_the_server(tmp_path, caplog):
    first = Trust()
    first.keep_in(tmp_path)
    assert first.of("a").note_use(40)
    assert not first.of("a").note_use(50)
    first.of("b").distrusted = "it lied"
    first.of("c").proven = True
    first.save()
    second = Trust()
    second.keep_in(tmp_path)
    assert (second.of("a").unchecked, second.of("a").base) == (2, 40)
    assert second.of("b").distrusted == "it lied"
    assert trust.is_distrusted(tmp_path, "b")
    assert not trust.is_distrusted(tmp_path, "a")
    second.go_back(40)
    assert second.of("a").base is None
    assert list(json.loads((tmp_path / trust.FILE).read_text())["keys"]) == ["b"]
    for damage in ("[]", '{"keys": 3}', '{"keys": {"a": {"base": "x"}}}', "\xff"):
        (tmp_path / trust.FILE).write_text(damage)
        caplog.clear()
        assert trust.read(tmp_path) == {}
        assert caplog.messages


def test_words_of_workers_are_one_short_line():
    assert words("a\x1b[31m\nb") == "a?[31m?b"
    assert len(words("x" * 10**6)) < 400
    assert len(words({"x": "y" * 10**6})) < 400


def test_checkpoints_of_doubtful_steps_are_set_aside_and_older_ones_stay(tmp_path, caplog):
    class Executor:
        class scheduler:
            base, gone_back = -1, None

            @classmethod
            def go_back(cls, base):
                cls.gone_back = base

        def begin(self, images):
            pass

    for name in ("000000.npz", "000050.npz", "000100.npz", "notes.npz"):
        (tmp_path / name).write_bytes(b"x")
    lasting = Lasting(Executor(), tmp_path)
    lasting.begin(None)
    assert Executor.scheduler.base == 100
    lasting.go_back(TaintedError("results cannot be believed", base=0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000.npz",
        "000050.doubted",
        "000100.doubted",
        "notes.npz",
    ]
    assert Executor.scheduler.gone_back == 0
    assert "set aside as *.doubted: 50, 100" in caplog.text


@pytest.mark.parametrize("kind", liars.KINDS)
def test_every_lie_is_found_where_every_task_is_checked(kind):
    measured = liars.measure(kind, 0.1, 3, steps=12, tasks=20, share=1.0)
    assert measured["true_bits"] == 1.0
    assert measured["honest_distrusted"] == 0
    assert measured["found_out"] == (0.0 if kind == "hardware" else 1.0)  # that one is refused before it lies


@pytest.mark.parametrize("kind", liars.KINDS)
def test_after_a_proof_the_bits_are_the_true_ones_whatever_was_checked_before(kind):
    """A check that a liar passed vouched for all that it had computed before."""
    measured = liars.measure(kind, 0.3, 4, steps=40, tasks=20, share=0.03)
    assert measured["wrong_bits_after_a_proof"] == 0
    assert measured["honest_distrusted"] == 0
    assert measured["true_bits"] >= 0.5


def test_honest_workers_alone_are_never_distrusted():
    outcome = liars.run("nobody", 0.0, 0, honest=3, steps=20, tasks=30, share=0.5)
    assert outcome == liars.Outcome(True, (), 0, 0, 20)


@pytest.mark.slow
@pytest.mark.parametrize("lies", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("kind", liars.KINDS)
def test_twenty_runs_with_a_liar(kind, lies):
    measured = liars.measure(kind, lies, 20, steps=20, tasks=30, share=1.0)
    assert (measured["true_bits"], measured["honest_distrusted"]) == (1.0, 0)
