"""What a worker with a key can try against a run, over links in threads; the bits stay those of the local executor."""

import logging
import threading
from concurrent.futures import Future

import numpy as np
import pytest

from helpers import links
from kip.blocks import Blocks, KernelBlocks, LocalExecutor, plan
from kip.errors import WorkerError
from kip.kernels import Architecture
from kip.server import trust
from kip.server.checks import TaintedError
from kip.server.executor import RemoteExecutor
from kip.server.member import Settings
from kip.workers.codec import Message, decode, encode
from kip.workers.worker import Worker

PATIENT = Settings(deadline=600.0, copy_after=0.3, ping_every=0.05, quarantine=0.1, patience=60.0)
"""Whoever is waited for by the deadline stops the test."""


class SmallTasks(KernelBlocks):
    """Kernel blocks of many small tasks."""

    def _plan_of(self, kernel, support, num_target):
        return plan(len(support), num_target, 1, 9, task_columns=2)


def step(executor, seed=0):
    rng = np.random.default_rng(seed)
    support, target = (rng.standard_normal((count, 4, 4, 2)).astype(np.float32) for count in (7, 20))
    bars = rng.standard_normal((7, 7)), rng.standard_normal((20, 7))
    blocks = SmallTasks(Blocks(), executor)
    return (*blocks.forward(Architecture("FC", 1), support, target), blocks.backward(*bars))


@pytest.fixture(scope="module")
def expected():
    with LocalExecutor() as executor:
        return [step(executor, seed) for seed in range(3)]


def check(executor, expected, seeds=(0, 1, 2)):
    """Compute steps, and compare their bits; a step that does not end within two minutes fails."""
    for seed in seeds:
        came = []
        thread = threading.Thread(target=lambda seed=seed, came=came: came.append(step(executor, seed)), daemon=True)
        thread.start()
        thread.join(120)
        assert came, "the step did not end"
        for ours, theirs in zip(came[0], expected[seed], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def honest(name="honest", **options):
    return links.ThreadLink(name, Worker(use_data=False), **options)


class Changed(links.ThreadLink):
    """A worker whose answers to some kinds of messages are changed; None never comes."""

    def __init__(self, name, key=None, **changes):
        super().__init__(name, Worker(use_data=False), key=key)
        self.changes = changes

    def send(self, payload, *, most=0):
        kind = decode(payload).kind
        change = self.changes.get("task" if kind in ("forward", "backward") else kind)
        if change is None:
            return super().send(payload)
        self.asked.append(kind)
        answer = change(decode(self.worker.handle(payload)))
        future = Future()
        if answer is not None:
            future.set_result(encode(answer))
        return future


def steps(executor, count):
    for _ in range(count):
        step(executor)


def never(answer):
    return None


def error(code, problem="no"):
    return lambda answer: Message("error", {"code": code, "problem": problem})


def with_fields(**fields):
    return lambda answer: answer._replace(fields={**answer.fields, **fields})


def with_arrays(**arrays):
    return lambda answer: answer._replace(arrays={**answer.arrays, **arrays})


def lying(answer):
    return answer._replace(arrays={"result": answer.arrays["result"] * np.float32(1.001)})


@pytest.mark.parametrize("share", [pytest.param(0.01, marks=pytest.mark.slow), 1.0])
@pytest.mark.parametrize(
    "changes",
    [
        {"open": never},
        {"begin": never},
        {"task": never},
        {"begin": with_fields(epoch=10**6)},
        {"begin": with_fields(epoch="1")},
        {"task": error("run")},
        {"task": error("step")},
        {"begin": error("images")},
    ],
    ids=["mute at open", "mute at begin", "mute at tasks", "another epoch", "no epoch", "no run", "no step", "images"],
)
def test_a_worker_that_never_computes_stops_no_run_of_an_honest_one(expected, share, changes):
    with RemoteExecutor(
        [Changed("bad", **changes), honest()], settings=PATIENT._replace(check_share=share)
    ) as executor:
        check(executor, expected)
        assert executor.scheduler.members["bad"].tasks == 0
        assert not executor.scheduler.sent_away


def test_eight_mute_connections_of_one_key_hold_nothing_for_long_nor_when_they_come_again(expected):
    mutes = [Changed(f"mute/{number}", "mute", task=never) for number in range(8)]
    with RemoteExecutor([*mutes, honest()], settings=PATIENT) as executor:
        check(executor, expected, [0])
        scheduler = executor.scheduler
        assert scheduler.trust.of("mute").late >= 1
        for turn in range(3):
            for number in range(8):
                scheduler.leave(f"mute/{number}" if turn == 0 else f"mute/{turn}/{number}")
                scheduler.join(Changed(f"mute/{turn + 1}/{number}", "mute", task=never))
            check(executor, expected, [turn])
        assert not scheduler.trust.of("mute").punctual
        assert scheduler.trust.of("honest").punctual
        before = scheduler.copies
        for number in range(8):
            scheduler.join(Changed(f"mute/last/{number}", "mute", task=never))
        retries = scheduler.retries
        check(executor, expected, [0])
        assert scheduler.retries == retries, "it was given copies of what the other computes, and nothing else"
        assert scheduler.copies >= before


def test_a_key_that_was_late_is_given_tasks_again_once_it_is_in_time(expected):
    slow = honest("slow", fault=links.slow(0.0))
    with RemoteExecutor([slow, honest("other", fault=links.slow(0.005))], settings=PATIENT) as executor:
        check(executor, expected, [0])
        executor.scheduler.trust.of("slow").late = 2
        check(executor, expected, [1, 2, 0])
        assert executor.scheduler.trust.of("slow").late == 0
        assert executor.scheduler.members["slow"].tasks > 0


def test_one_key_is_one_witness_however_often_it_connects(expected):
    """It was believed against two honest workers, which were distrusted."""
    made = [Changed(name, "liar", task=lying) for name in ("liar", "liar/2", "liar/3")]
    with RemoteExecutor([*made, honest("a"), honest("b")], settings=PATIENT._replace(check_share=1.0)) as executor:
        check(executor, expected)
        assert list(executor.scheduler.sent_away) == ["liar"]
        assert all(executor.scheduler.members[name].state == "distrusted" for name in ("liar", "liar/2", "liar/3"))


def test_a_distrusted_key_that_comes_back_is_told_why_and_counts_for_nothing(expected):
    with RemoteExecutor([Changed("liar", task=lying), honest()], settings=PATIENT) as executor:
        check(executor, expected, [0])
        again = Changed("liar/2", "liar", task=lying)
        executor.scheduler.join(again)
        check(executor, expected, [1, 2])
        assert again.asked == []
        assert "is not what others compute" in again.why
        assert "liar/2" not in executor.scheduler.members


def test_a_key_that_lied_in_an_earlier_life_of_the_server_is_given_nothing(expected, tmp_path):
    """Its worker was here before the run's folder was read, as those of ray and launchpad are, and stayed."""
    (tmp_path / trust.FILE).write_text('{"keys": {"liar": {"unchecked": 0, "base": null, "distrusted": "it lied"}}}')
    liar = Changed("liar", task=lying)
    with RemoteExecutor([liar, honest()], settings=PATIENT) as executor:
        executor.scheduler.keep_trust_in(tmp_path)
        check(executor, expected)
        assert executor.scheduler.members["liar"].state == "distrusted"
        assert executor.scheduler.sent_away == {"liar": "it lied"}
    assert liar.asked == []


def test_two_results_of_one_key_that_differ_are_a_proof_against_it(expected):
    lies = iter(range(10**6))
    two_faced = Changed("a", "key", task=lambda answer: lying(answer) if next(lies) % 2 else answer)
    slow = links.ThreadLink("b", Worker(use_data=False), links.slow(0.01), "key")
    with RemoteExecutor([two_faced, slow, honest()], settings=PATIENT._replace(check_share=1.0)) as executor:
        check(executor, expected)
        assert list(executor.scheduler.sent_away) == ["key"]


@pytest.mark.parametrize(
    "change", [error("compute", "it fails"), lambda a: a._replace(arrays={"result": 0 * a.arrays["result"] / 0})]
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_one_key_that_fails_thrice_ends_no_run(expected, change):
    """Failures of three connections were three, and ended the run in 0.2 s."""
    made = [Changed(f"bad/{number}", "bad", task=change) for number in range(3)]
    slow = honest(fault=links.slow(0.05))
    with RemoteExecutor([*made, slow], settings=PATIENT._replace(quarantine=0.01)) as executor:
        check(executor, expected)
        assert all(member.tasks == 0 for name, member in executor.scheduler.members.items() if name != "honest")


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(
    "change", [error("compute", "it fails"), lambda a: a._replace(arrays={"result": 0 * a.arrays["result"] / 0})]
)
def test_where_all_fail_at_a_task_this_process_computes_it(expected, change, caplog):
    with RemoteExecutor([Changed("only", task=change)], settings=PATIENT._replace(quarantine=0.001)) as executor:
        check(executor, expected, [0])
        assert executor.scheduler.members["only"].tasks == 0
    assert "this process computes task" in caplog.text


def test_where_this_process_fails_too_the_run_ends_with_the_workers_words(monkeypatch):
    monkeypatch.setattr("kip.server.executor._compute", lambda *arguments: 1 / 0)
    with (
        RemoteExecutor([Changed("only", task=error("compute", "no memory"))], settings=PATIENT) as executor,
        pytest.raises(WorkerError, match="a task fails: worker only says: no memory"),
    ):
        step(executor)


def test_a_worker_that_states_other_hardware_is_refused_in_a_run_of_equal_bits(expected, caplog):
    """Its lies of a thousandth were never compared bit by bit, and 288 of 288 passed."""
    other = with_fields(hardware="another machine")
    made = [Changed("other", open=other, task=lying), honest("a"), honest("b")]
    with RemoteExecutor(made, settings=PATIENT) as executor:
        check(executor, expected)
        assert executor.scheduler.members["other"].state == "dismissed"
        assert executor.scheduler.members["a"].state == executor.scheduler.members["b"].state == "live"
    assert "--mixed-hardware" in caplog.text


def test_a_worker_of_other_hardware_that_came_first_makes_room_for_this_process_hardware(expected):
    """What it computed alone, within the tolerance, is taken back."""
    first = Changed("first", open=with_fields(hardware="another machine"), task=lying)
    with RemoteExecutor([first], settings=PATIENT) as executor:
        executor.scheduler.base = 3
        step(executor)
        executor.scheduler.join(honest("a"))
        with pytest.raises(TaintedError) as caught:
            steps(executor, 20)
        assert caught.value.base == 3
        executor.scheduler.go_back(3)
        check(executor, expected)
        assert "a" not in executor.scheduler.sent_away


def test_mixed_hardware_is_compared_to_the_tolerance_and_each_kind_with_its_own(expected):
    other = with_fields(hardware="another machine")
    nearly = lambda answer: answer._replace(arrays={"result": answer.arrays["result"] * np.float32(1 + 1e-6)})  # noqa: E731
    far = lambda answer: answer._replace(arrays={"result": answer.arrays["result"] * np.float32(1.01)})  # noqa: E731
    settings = PATIENT._replace(mixed_hardware=True, check_share=1.0)
    made = [
        honest("a"),
        *(Changed(name, open=other, task=nearly) for name in ("x", "y")),
        Changed("liar", open=other, task=far),
    ]
    with RemoteExecutor(made, settings=settings) as executor:
        for ours, theirs in zip(step(executor), expected[0], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        assert list(executor.scheduler.sent_away) == ["liar"]
    made = [
        honest("a"),
        *(Changed(name, open=other, task=nearly) for name in ("x", "y")),
        Changed("liar", open=other, task=lying),
    ]
    with RemoteExecutor(made, settings=settings) as executor:
        step(executor)
        assert list(executor.scheduler.sent_away) == ["liar"], "within the tolerance, two of its kind outvote it"


def test_a_key_that_states_two_kinds_of_hardware_is_not_believed(expected):
    made = [honest("a"), Changed("b", "a", open=with_fields(hardware="another machine"))]
    with RemoteExecutor(made, settings=PATIENT._replace(mixed_hardware=True)) as executor:
        check(executor, expected, [0])
        assert {name: member.state for name, member in executor.scheduler.members.items()}.get("b") in (
            None,
            "dismissed",
        ) or (executor.scheduler.members["a"].state == "dismissed")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": with_arrays(junk=np.zeros(1000))}, "arrays of an answer"),
        ({"task": with_arrays(junk=np.zeros(3 << 18))}, "an answer is too long"),
        ({"open": with_arrays(junk=np.zeros(10))}, "arrays of an answer"),
        ({"begin": with_arrays(result=np.zeros(10))}, "arrays of an answer"),
        ({"task": with_fields(epoch=0)}, "epoch of an answer"),
    ],
)
def test_an_answer_with_more_in_it_or_of_another_step_is_refused(expected, caplog, changes, words):
    with RemoteExecutor([Changed("bad", **changes), honest()], settings=PATIENT) as executor:
        check(executor, expected)
        assert executor.scheduler.members["bad"].tasks == 0
    assert f"worker bad is in quarantine for 0.1 s: its answer is rubbish: {words}" in caplog.text


def test_texts_of_workers_are_cut_and_have_no_control_characters(expected, caplog):
    """Five refusals made a megabyte of log."""
    caplog.set_level(logging.INFO)
    flood = "\x1b[2J\n" + "x" * 500_000
    made = [
        Changed("a", task=error("compute", flood)),
        Changed("b", begin=error(flood, flood)),
        Changed("c", open=with_fields(why=flood, holds=False)),
        Changed("d", open=error("versions", flood)),
        Changed("e", task=lambda answer: answer._replace(kind=flood)),
        Changed("f", open=with_fields(hardware=flood)),
        Changed("g", task=with_fields(epoch=flood)),
    ]
    with RemoteExecutor([*made, honest()], settings=PATIENT) as executor:
        check(executor, expected)
        assert max(map(len, executor.scheduler.sent_away.values())) < 1000
    assert max(map(len, caplog.messages)) < 1000
    assert not any("\x1b" in message or "\n" in message for message in caplog.messages)


def test_an_answer_of_an_earlier_task_that_comes_again_is_a_wrong_result(expected):
    """The numbers of messages are the transport's; what is in a replayed answer is another task's result."""
    first = []

    def replays(answer):
        first.append(answer)
        same = [old for old in first if old.arrays["result"].shape == answer.arrays["result"].shape]
        return answer._replace(arrays=same[0].arrays)

    with RemoteExecutor(
        [Changed("bad", task=replays), honest()], settings=PATIENT._replace(check_share=1.0)
    ) as executor:
        check(executor, expected)
        assert list(executor.scheduler.sent_away) == ["bad"]
