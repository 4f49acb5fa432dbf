"""The scheduler over workers in threads: the bits of the local executor, whatever the workers do."""

import logging
import threading
import time

import numpy as np
import pytest

from helpers import links
from helpers.waiting import wait_until
from kip.blocks import Blocks, Images, KernelBlocks, LocalExecutor, plan
from kip.errors import ShapeError, WorkerError, WorkersLostError
from kip.kernels import RBF, Architecture, Kernel, Stax
from kip.server.checks import Checks, TaintedError
from kip.server.executor import RemoteExecutor
from kip.server.member import Settings
from kip.workers.codec import Message, decode, encode
from kip.workers.worker import Worker

KERNEL = Architecture("FC", 1)
QUICK = Settings(deadline=30.0, copy_after=0.2, ping_every=0.05, quarantine=0.1, patience=5.0)


def link(name="a", fault=None, **options):
    return links.ThreadLink(name, Worker(use_data=False, **options), fault)


class SmallTasks(KernelBlocks):
    """Kernel blocks of many small tasks."""

    def _plan_of(self, kernel, support, num_target):
        return plan(len(support), num_target, 1, 9, task_columns=2)


def step(executor, kernel: Kernel = KERNEL, n=7, m=20, seed=0):
    """A step's kernel matrices and gradient."""
    rng = np.random.default_rng(seed)
    support, target = (rng.standard_normal((count, 4, 4, 2)).astype(np.float32) for count in (n, m))
    bars = rng.standard_normal((n, n)), rng.standard_normal((m, n))
    blocks = SmallTasks(Blocks(), executor)
    return (*blocks.forward(kernel, support, target), blocks.backward(*bars))


@pytest.fixture(scope="module")
def expected():
    with LocalExecutor() as executor:
        return [step(executor, seed=seed) for seed in range(3)]


def check(executor, expected, seeds=(0, 1, 2)):
    for seed in seeds:
        for ours, theirs in zip(step(executor, seed=seed), expected[seed], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_workers_gives_the_bits_of_the_local_executor(expected, count):
    settings = QUICK._replace(copy_after=20.0)  # on a busy machine a task may well take QUICK's
    with RemoteExecutor([link(str(i)) for i in range(count)], settings=settings) as executor:
        check(executor, expected)
        members = executor.scheduler.members.values()
        assert sum(member.tasks for member in members) == executor.scheduler.done
        assert all(member.tasks for member in members), "every worker gets work"
        assert executor.scheduler.retries == executor.scheduler.copies == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (links.broken, "the wire was cut"),
        (links.with_result(lambda result: result * np.nan), "NaN or infinity"),
        (links.with_result(lambda result: result[:-1]), "a task's result"),
        (links.with_result(lambda result: result.astype(np.float64)), "a task's result"),
        (lambda number, payload, answer: answer[:-3], "another length"),
        (lambda number, payload, answer: b"", "cut short"),
        (lambda number, payload, answer: encode(Message("opened")), "kind of an answer"),
        (lambda number, payload, answer: encode(Message("error", {"code": "compute", "problem": "no"})), "no"),
    ],
)
def test_a_worker_that_fails_or_lies_changes_no_bit(expected, caplog, fault, words):
    caplog.set_level(logging.INFO)
    with RemoteExecutor([link("good"), link("bad", fault)], settings=QUICK) as executor:
        check(executor, expected)
        assert executor.scheduler.members["bad"].tasks == 0
        assert executor.scheduler.retries > 0
    assert any("worker bad" in message and words in message for message in caplog.messages)


def wrong(number, payload, answer):
    """Finite numbers that are not the kernel's, in one bit."""
    message = decode(answer)
    if message.kind != "result":
        return answer
    result = np.array(message.arrays["result"])
    result.reshape(-1).view(np.uint32)[0] ^= 1
    return encode(message._replace(arrays={"result": result}))


def after(count, fault):
    return lambda number, payload, answer: fault(number, payload, answer) if number >= count else answer


@pytest.mark.parametrize("others", [0, 1, 3])
def test_a_liar_is_found_out_by_its_first_result_and_counts_for_nothing(expected, caplog, others):
    """With others, they decide; with one other, this process; alone, this process, and then nobody is left."""
    made = [link("liar", wrong), *(link(f"good-{number}", links.slow(0.005)) for number in range(others))]
    with RemoteExecutor(made, settings=QUICK._replace(patience=0.5)) as executor:
        if others:
            check(executor, expected)
            assert all(member.witness.proven for name, member in executor.scheduler.members.items() if name != "liar")
        else:
            with pytest.raises(WorkersLostError):
                step(executor)
        assert executor.scheduler.members["liar"].state == "distrusted"
        assert "differ" in caplog.text
        assert "worker liar is sent away (distrusted)" in caplog.text
        assert list(executor.scheduler.sent_away) == ["liar"]
    assert "is not what others compute" in made[0].why


def test_a_worker_that_goes_wrong_later_is_found_out_and_its_rounds_since_are_named(expected):
    """Every task is computed twice here; with a share of them, what lies before is tainted."""
    made = [link("good", links.slow(0.005)), link("later", after(8, wrong))]
    with RemoteExecutor(made, settings=QUICK._replace(check_share=1.0)) as executor:
        check(executor, expected)
        assert executor.scheduler.members["later"].state == "distrusted"
    lies = threading.Event()

    def lying(number, payload, answer):
        return wrong(number, payload, answer) if lies.is_set() else answer

    made = [link("good", links.slow(0.02)), link("later", lying)]
    with RemoteExecutor(made, settings=QUICK._replace(check_share=1e-9)) as executor:
        executor.scheduler.base = 7  # the step of the newest checkpoint
        step(executor)  # here its first result is checked, and it checks the other's
        lies.set()
        step(executor)
        executor.scheduler.base = 9
        assert executor.scheduler.members["later"].state == "live", "nothing of it was checked since its first"
        executor.scheduler.checks._share = 1.0
        with pytest.raises(TaintedError, match=r"results of later.* cannot be believed") as caught:
            check(executor, expected, [1] * 9)
        assert caught.value.base == 7
        check(executor, expected, [1])


def test_a_share_of_tasks_is_computed_twice(expected):
    made = [link(name) for name in "abc"]
    with RemoteExecutor(made, settings=QUICK._replace(copy_after=20.0, check_share=0.2)) as executor:
        check(executor, expected)
        scheduler = executor.scheduler
        assert 3 <= scheduler.checks.made < 0.6 * scheduler.done
        assert sum(peer.tasks for peer in made) == scheduler.done + scheduler.checks.made


def test_nan_as_the_answer_to_a_check_is_rubbish_and_no_lie(expected, caplog):
    fault = links.with_result(lambda result: result * np.nan)
    with RemoteExecutor([link("good"), link("bad", fault)], settings=QUICK._replace(check_share=1.0)) as executor:
        check(executor, expected)
        assert executor.scheduler.members["bad"].state != "distrusted"
        assert not executor.scheduler.sent_away
    assert "worker bad is in quarantine" in caplog.text


def test_one_honest_worker_is_checked_by_this_process(expected):
    with RemoteExecutor([link("only")], settings=QUICK._replace(check_share=0.2)) as executor:
        check(executor, expected)
        assert executor.scheduler.checks.made >= 1
        assert executor.scheduler.members["only"].witness.proven


def test_this_process_may_be_the_one_that_was_wrong(expected, caplog, monkeypatch):
    compute, wrong_once = Checks.compute, []

    def computes(self, work, then):
        if not wrong_once:
            wrong_once.append(work.job)
            work.job = work.job._replace(compute=lambda: 2 * wrong_once[0].compute())
        elif len(wrong_once) == 1:  # the same task again
            wrong_once.append(work.job)
            work.job = wrong_once[0]
        compute(self, work, then)

    monkeypatch.setattr(Checks, "compute", computes)
    with RemoteExecutor([link("only")], settings=QUICK) as executor:
        check(executor, expected)
        assert executor.scheduler.members["only"].state == "live"
    assert "worker only and this process for task" in caplog.text
    assert "sent away" not in caplog.text


def test_both_copies_of_a_straggler_are_compared(expected):
    """The copy comes back first and is wrong; the straggler shows it."""
    first = threading.Event()

    def straggles(number, payload, answer):
        if number == 2:
            first.wait(2.0)
        return answer

    made = [link("straggler", straggles), link("liar", after(1, wrong))]
    with RemoteExecutor(made, settings=QUICK._replace(check_share=1e-9)) as executor:
        try:
            step(executor)
            step(executor)
        except TaintedError:
            pass
        assert executor.scheduler.members["straggler"].state == "live"


def test_a_worker_of_another_version_is_sent_away_once_and_ends_no_run(expected, caplog):
    class Old(Worker):
        def handle(self, payload):
            if decode(payload).kind == "open":
                return encode(Message("error", {"code": "versions", "problem": "different versions"}))
            return super().handle(payload)

    old = links.ThreadLink("old", Old(use_data=False))
    slow = link("slow")
    handle = slow.worker.handle
    slow.worker.handle = lambda payload: (time.sleep(1.0) if decode(payload).kind == "open" else None, handle(payload))[
        1
    ]
    with RemoteExecutor([old, slow], settings=QUICK) as executor:
        executor.scheduler.join(links.ThreadLink("old-again", Old(use_data=False)))
        check(executor, expected, [0])
        assert old.asked == ["open"]
        assert executor.scheduler.members["old"].state == "dismissed"
    assert caplog.text.count("different versions") == 1
    with (
        RemoteExecutor([links.ThreadLink("old", Old())], settings=QUICK._replace(begin_patience=0.3)) as executor,
        pytest.raises(WorkerError, match="no worker can begin: worker old: different versions"),
    ):
        step(executor)


def test_a_worker_that_cannot_compute_the_runs_form_is_sent_away_once_and_ends_no_run(expected, caplog):
    class Other(Worker):
        def handle(self, payload):
            if decode(payload).kind == "begin":
                return encode(Message("error", {"code": "form", "problem": "it computes other values"}))
            return super().handle(payload)

    other = links.ThreadLink("other", Other(use_data=False))
    with RemoteExecutor([other, link("good")], settings=QUICK) as executor:
        check(executor, expected, [0, 1])
        wait_until(lambda: executor.scheduler.members["other"].state == "dismissed")
        assert other.asked.count("begin") == 1
    assert caplog.text.count("it computes other values") == 1
    with (
        RemoteExecutor([links.ThreadLink("other", Other())], settings=QUICK._replace(begin_patience=0.3)) as executor,
        pytest.raises(WorkerError, match="no worker can begin: worker other: it computes other values"),
    ):
        step(executor)


def test_answered_messages_leave_nothing_behind(expected):
    with RemoteExecutor([link("a")], settings=QUICK) as executor:
        check(executor, expected)
        assert len(executor.scheduler._sent) <= QUICK.in_flight


def test_a_worker_that_fails_once_is_used_again(expected):
    def fault(number, payload, answer):
        return b"" if number == 0 else answer

    with RemoteExecutor([link("only", fault)], settings=QUICK) as executor:
        check(executor, expected)
        assert 1 <= executor.scheduler.retries <= 2, "what failed, and what else it held"


def test_a_frozen_worker_is_left_behind_and_taken_back(expected, caplog):
    thaw = threading.Event()

    def frozen(number, payload, answer):
        thaw.wait(20)
        return answer

    settings = QUICK._replace(deadline=0.6)
    with RemoteExecutor([link("good"), link("frozen", frozen)], settings=settings) as executor:
        executor.scheduler._settings = QUICK
        check(executor, expected, [0])
        executor.scheduler._settings = settings
        check(executor, expected, [1])
        assert executor.scheduler.copies + executor.scheduler.retries > 0
        thaw.set()
        for _ in range(100):  # its late answer takes a moment
            if executor.scheduler.members["frozen"].state == "stalled":
                executor.scheduler._wait()
        check(executor, expected, [2])
        assert executor.scheduler.members["frozen"].state == "live"


def test_silence_past_the_deadline_is_named(expected, caplog):
    thaw = threading.Event()
    settings = QUICK._replace(deadline=0.5, copies=1)

    def frozen(number, payload, answer):
        thaw.wait(20)
        return answer

    with RemoteExecutor([link("good", links.slow(0.02)), link("frozen", frozen)], settings=settings) as executor:
        check(executor, expected, [0])
        assert executor.scheduler.members["frozen"].state == "stalled"
        thaw.set()
    assert "worker frozen has not answered" in caplog.text


def test_workers_join_and_leave_during_a_step(expected):
    with RemoteExecutor([link("first", links.slow(0.01))], settings=QUICK) as executor:
        threading.Timer(0.1, executor.scheduler.join, [link("second")]).start()
        threading.Timer(0.3, executor.scheduler.leave, ["first"]).start()
        check(executor, expected)
        assert list(executor.scheduler.members) == ["second"]


def test_a_run_that_starts_without_workers_waits_for_the_first(expected):
    with RemoteExecutor([], settings=QUICK) as executor:
        threading.Timer(0.3, executor.scheduler.join, [link()]).start()
        check(executor, expected, [0])


def test_a_restarted_worker_is_told_all_again(expected, caplog):
    caplog.set_level(logging.INFO)
    peer = link("one")
    with RemoteExecutor([peer], settings=QUICK) as executor:
        check(executor, expected, [0])
        peer.worker = Worker(use_data=False)  # a new process at the old place
        check(executor, expected, [0, 1])
    assert peer.asked.count("open") == 2


def test_no_worker_for_too_long_ends_the_run():
    with (
        RemoteExecutor([link("dead", links.broken)], settings=QUICK._replace(patience=0.3, ping_every=9)) as executor,
        pytest.raises(WorkersLostError, match="no worker is there"),
    ):
        step(executor)


def test_nan_that_is_the_kernels_own_is_given_back():
    images = np.full((2, 4, 4, 1), np.nan, np.float32)
    for count in (1, 2):
        with RemoteExecutor([link(str(i)) for i in range(count)], settings=QUICK) as executor:
            k_ss, _ = SmallTasks(Blocks(), executor).forward(RBF(), images, images)
            assert np.isnan(k_ss).all()


def test_a_kernel_that_fails_everywhere_ends_the_run_with_the_workers_words(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def kernel(x, z, get):\n    raise RuntimeError('my kernel fails')\n")
    name = f"{path}:kernel"
    with (
        RemoteExecutor([link("a", stax=[name]), link("b", stax=[name])], settings=QUICK) as executor,
        pytest.raises(WorkerError, match="my kernel fails"),
    ):
        step(executor, Stax(name))


def test_a_misshapen_cotangent_is_refused_before_it_is_sent():
    with RemoteExecutor([link()], settings=QUICK) as executor:
        images = np.zeros((3, 4, 4, 1), np.float32)
        made = plan(3, 3, 1, 9, task_columns=2)
        executor.begin(Images(KERNEL, images, images, made.size))
        with pytest.raises(ShapeError, match="cotangent of Task"):
            list(executor.backward(made.ts, [np.zeros((5, 5))] * len(made.ts)))


def test_no_more_than_the_limit_is_in_flight():
    most = []

    class Counting(links.ThreadLink):
        running = 0

        def send(self, payload, **limits):
            self.running += 1
            most.append(self.running)
            answer = super().send(payload)
            answer.add_done_callback(lambda _: setattr(self, "running", self.running - 1))
            return answer

    with RemoteExecutor([Counting("a", Worker(use_data=False), links.slow(0.005))], settings=QUICK) as executor:
        step(executor)
    assert max(most) == QUICK.in_flight


def test_images_travel_once_a_step_and_not_again_if_they_are_held(expected):
    peer = link()
    with RemoteExecutor([peer], settings=QUICK) as executor:
        blocks = SmallTasks(Blocks(), executor)
        support, target = np.zeros((7, 4, 4, 2), np.float32), np.ones((60, 4, 4, 2), np.float32)
        blocks.forward(KERNEL, support, target)
        first = peer.bytes_in
        blocks.forward(KERNEL, support, target)
    assert first > support.nbytes + target.nbytes
    assert peer.bytes_in - first < first - support.nbytes - target.nbytes + 200
    assert peer.asked.count("begin") == 2
