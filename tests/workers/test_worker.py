"""The worker: right answers, refusals by name, and nothing that kills it."""

import json
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest

from kip import config
from kip.blocks import Images, Task, TileSize, task
from kip.data import Augment, Data
from kip.experiment import Experiment
from kip.kernels import RBF, Architecture, Implementation, Stax
from kip.methods.problem import Problem
from kip.server import service
from kip.workers.codec import DTYPES, PREFIX, VERSION, Message, decode, encode
from kip.workers.worker import Worker, versions

KERNEL = RBF()
SUPPORT = np.random.default_rng(0).standard_normal((3, 2, 2, 1)).astype(np.float32)
TARGET = np.random.default_rng(1).standard_normal((5, 2, 2, 1)).astype(np.float32)
NAMES = {"run": "r", "configuration": "c"}
BEGIN = {
    **NAMES,
    "epoch": 1,
    "kernel": config.to_dict(KERNEL),
    "dtype": "float32",
    "size": [2, 2, 2, 0],
    "implementation": "auto",
    "support": "s",
    "target": "t",
}
WHOLE = ["ts", 0, 5, 0, 3]


def ask(worker, kind, fields=None, **arrays):
    return decode(worker.handle(encode(Message(kind, fields or {}, arrays))))


def opening(**changes):
    return {**NAMES, "versions": versions(), "recipe": None, "fingerprint": None, **changes}


def refused(answer, code, words=""):
    assert answer.kind == "error", answer
    assert answer.fields["code"] == code, answer.fields
    assert words in answer.fields["problem"]


@pytest.fixture
def worker():
    """A worker in the middle of a step."""
    made = Worker()
    assert ask(made, "open", opening()).kind == "opened"
    assert ask(made, "begin", BEGIN, support=SUPPORT, target=TARGET).kind == "begun"
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    """Let a task that comes before its step be refused at once."""
    monkeypatch.setattr("kip.workers.worker.BEHIND", 0.0)


@pytest.mark.parametrize("fails_before", [False, True])
@pytest.mark.parametrize("first", ["begin", "forward"])
def test_a_task_that_travels_behind_its_begin_waits_for_it(worker, monkeypatch, first, fails_before):
    """Whichever thread is the first: the one that takes the task, or the one that takes the message before it."""
    monkeypatch.setattr("kip.workers.worker.BEHIND", 60.0)
    expected = ask(worker, "forward", {**NAMES, "epoch": 1, "task": WHOLE}).arrays["result"]
    if fails_before and first == "begin":
        refused(ask(worker, "begin", {**BEGIN, "epoch": 2, "support": "other"}), "images")
    begins, goes_on = threading.Event(), threading.Event()
    begin = worker._begin

    def slowly(*arguments):
        begins.set()
        assert goes_on.wait(60)
        return begin(*arguments)

    monkeypatch.setattr(worker, "_begin", slowly)
    with ThreadPoolExecutor(2) as threads:
        asked = {
            "begin": lambda: ask(worker, "begin", {**BEGIN, "epoch": 2}),
            "forward": lambda: ask(worker, "forward", {**NAMES, "epoch": 2, "task": WHOLE}),
        }
        answers = {kind: threads.submit(asked[kind]) for kind in sorted(asked, key=lambda kind: kind != first)}
        assert begins.wait(60)
        assert not answers["forward"].done()
        goes_on.set()
        assert answers["begin"].result(60).kind == "begun"
        np.testing.assert_array_equal(answers["forward"].result(60).arrays["result"], expected)


def test_a_task_behind_a_begin_that_fails_is_refused_and_does_not_wait(worker, monkeypatch):
    monkeypatch.setattr("kip.workers.worker.BEHIND", 60.0)
    refused(ask(worker, "begin", {**BEGIN, "epoch": 2, "support": "other"}), "images")
    refused(ask(worker, "forward", {**NAMES, "epoch": 2, "task": WHOLE}), "step")
    assert ask(worker, "begin", {**BEGIN, "epoch": 2}).kind == "begun"
    assert ask(worker, "forward", {**NAMES, "epoch": 2, "task": WHOLE}).kind == "result"


def test_results_are_those_of_the_plain_task(worker):
    images, block_task = Images(KERNEL, SUPPORT, TARGET, TileSize(2, 2, 2)), Task("ts", (0, 5), (0, 3))
    bar = np.ones((5, 3), np.float32)
    answer = ask(worker, "forward", {**NAMES, "epoch": 1, "task": WHOLE})
    np.testing.assert_array_equal(answer.arrays["result"], task.forward(images, block_task))
    answer = ask(worker, "backward", {**NAMES, "epoch": 1, "task": WHOLE}, cotangent=bar)
    np.testing.assert_array_equal(answer.arrays["result"], task.backward(images, block_task, bar))


def test_every_message_may_come_twice_and_at_once(worker):
    ask(worker, "open", opening())
    ask(worker, "begin", BEGIN)
    message = encode(Message("forward", {**NAMES, "epoch": 1, "task": WHOLE}))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(worker.handle(message))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    assert decode(answers[0]).kind == "result"


def test_a_message_of_another_run_configuration_or_step_is_refused_by_name(worker):
    fields = {**NAMES, "epoch": 1, "task": WHOLE}
    refused(ask(worker, "forward", {**fields, "run": "x"}), "run")
    refused(ask(worker, "forward", {**fields, "configuration": "x"}), "configuration")
    refused(ask(worker, "forward", {**fields, "epoch": 0}), "step")
    refused(ask(worker, "forward", {**fields, "epoch": 2}), "step")
    assert ask(worker, "begin", {**BEGIN, "epoch": 2}).kind == "begun"
    refused(ask(worker, "forward", fields), "step")
    refused(ask(worker, "begin", BEGIN), "step")
    refused(ask(Worker(), "forward", fields), "run")
    refused(ask(worker, "open", opening(versions={"jax": "0"})), "versions", "different versions")


def test_a_new_run_takes_the_place_of_the_old(worker):
    assert ask(worker, "open", opening(run="new")).kind == "opened"
    refused(ask(worker, "forward", {**NAMES, "epoch": 1, "task": WHOLE}), "run")
    refused(ask(worker, "forward", {**NAMES, "run": "new", "epoch": 1, "task": WHOLE}), "step")


def test_images_that_were_never_sent_are_asked_for(worker):
    refused(ask(worker, "begin", {**BEGIN, "epoch": 2, "support": "other"}), "images")
    assert ask(worker, "begin", {**BEGIN, "epoch": 2}).kind == "begun"
    named = {**BEGIN, "epoch": 3, "source": {"split": "train", "step": None, "rows": None, "checksum": None}}
    refused(ask(worker, "begin", named), "images", "does not hold the data set")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": ["ts", 0, 6, 0, 3]}, "a task"),
        ({"task": ["ts", 0, 5, 0, 0]}, "a task"),
        ({"task": ["ts", 0, 5, 0]}, "a task"),
        ({"task": ["ss", 1, 2, 0, 3]}, "a task"),
        ({"task": [[], 0, 5, 0, 3]}, "a task"),
        ({"task": ["ts", 0.0, 5, 0, 3]}, "a task"),
        ({"task": "ts"}, "task of a message"),
        ({"epoch": None}, "epoch"),
    ],
)
def test_a_task_that_does_not_fit_the_images_is_refused(worker, change, words):
    refused(ask(worker, "forward", {**NAMES, "epoch": 1, "task": WHOLE, **change}), "message", words)


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": {"kind": "vgg"}},
        {"kernel": 3},
        {"dtype": "object"},
        {"size": [1, 2]},
        {"size": [1 << 40, 2, 2, 0]},
        {"size": [0, 1, 1, 0]},
        {"size": [2, 2, 2, -1]},
        {"implementation": "shell"},
        {"support": None},
        {"source": {"split": "../secrets"}},
        {"source": []},
    ],
)
def test_a_step_that_does_not_fit_is_refused(worker, change):
    refused(ask(worker, "begin", {**BEGIN, "epoch": 2, **change}), "message")
    assert ask(worker, "forward", {**NAMES, "epoch": 1, "task": WHOLE}).kind == "result", "the old step stays"


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_every_implementation_that_a_server_can_name_is_taken(worker, implementation):
    begin = {**BEGIN, "epoch": 2, "implementation": implementation}
    assert ask(worker, "begin", begin).kind == "begun"


def test_a_form_that_the_worker_finds_wrong_is_refused_with_the_reason(worker):
    begin = {**BEGIN, "epoch": 2, "kernel": config.to_dict(Architecture("ConvVec", 1)), "implementation": "pallas"}
    refused(ask(worker, "begin", begin), "form", "needs a GPU, and this is a CPU. Start the worker on a device like")
    assert ask(worker, "begin", {**begin, "implementation": "engine"}).kind == "begun"


def test_no_code_is_loaded_that_the_worker_was_not_started_for(worker, tmp_path):
    path = tmp_path / "evil.py"
    path.write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\nkernel = None\n")
    evil = {**BEGIN, "epoch": 2, "kernel": config.to_dict(Stax(f"{path}:kernel"))}
    refused(ask(worker, "begin", evil), "message", "may not load")
    refused(ask(worker, "forward", {**NAMES, "epoch": 2, "task": WHOLE}), "step")
    assert not path.with_suffix(".ran").exists()


def test_the_worker_makes_the_servers_target_images_from_its_own_data():
    experiment = Experiment(method=kip_method(), augment=Augment("rotate_shift"))
    introduction = service.introduction(experiment, None)
    worker = Worker()
    opened = ask(worker, "open", {**NAMES, "versions": versions(), **introduction, "configuration": "c"})
    assert opened.fields["holds"] is True
    problem = problem_of(experiment)
    for step in (0, 1):
        batch = problem.target_batch(30, step=step)
        source = {"split": "train", "step": step, "rows": None, "checksum": batch.source.checksum}
        begin = {**BEGIN, "epoch": step + 1, "source": source, "size": [2, 1, 1, 0]}
        support = batch.images[:1]
        answer = ask(worker, "begin", begin, support=support, indices=batch.source.indices)
        assert answer.kind == "begun", answer
        np.testing.assert_array_equal(worker._epoch.images.target, batch.images)
    wrong = {**begin, "epoch": 9, "source": {**source, "checksum": 1}}
    refused(ask(worker, "begin", wrong, support=support, indices=batch.source.indices), "images", "differ from the")


def test_a_worker_whose_data_differ_says_so_and_is_sent_images():
    introduction = service.introduction(Experiment(method=kip_method()), None)
    introduction["fingerprint"] = {**introduction["fingerprint"], "inputs": 0}
    opened = ask(Worker(), "open", {**NAMES, "versions": versions(), **introduction, "configuration": "c"})
    assert opened.fields["holds"] is False
    assert "other bytes" in opened.fields["why"]


def test_a_worker_without_the_data_set_or_with_a_bad_recipe_is_sent_images():
    introduction = service.introduction(Experiment(method=kip_method()), None)
    for name in ("no_such_set", "../../etc/passwd"):
        recipe = {**introduction["recipe"], "data": config.to_dict(Data(name))}
        opened = ask(Worker(), "open", opening(recipe=recipe, fingerprint={}))
        assert opened.fields["holds"] is False


def kip_method():
    from kip.methods.kernel.kip import KIP

    return KIP(1, kernels=(Architecture("FC", 1),), target_batch=30)


def problem_of(experiment) -> Problem:
    from kip import data, preprocess
    from kip.blocks import KernelBlocks
    from kip.runs import setup

    dataset = data.load(experiment.data)
    transform = preprocess.fit(experiment.preprocess, dataset.train.images)
    return setup.problem_of(experiment, dataset, transform, KernelBlocks(), None)


# Hostile payloads

VALUES = [None, True, -1, 0, 1, 2, 5, 1 << 70, 1.5, "", "s", "t", "r", "c", "ts", "ss", "float64", [], {}, [1], [[]]]


def random_payload(rng):
    """Bytes of three kinds: noise, a damaged message, and a well-formed message whose content makes no sense."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.bytes(int(rng.integers(0, 120)))
    name = str(rng.choice(["open", "begin", "forward", "backward", "ping", "exec", "result", "error"]))
    fields = dict(BEGIN) if name == "begin" else {**NAMES, "epoch": 1, "task": list(WHOLE)}
    if name == "open":
        fields = opening()
    arrays = {}
    if rng.random() < 0.5:
        for array in ("support", "target", "cotangent", "indices")[: rng.integers(1, 5)]:
            shape = tuple(int(side) for side in rng.integers(0, 4, rng.integers(0, 5)))
            arrays[array] = np.zeros(shape, str(rng.choice(list(DTYPES))))
    for _ in range(rng.integers(0, 4)):
        key = str(rng.choice([*fields, "source", "recipe", "x"]))
        fields[key] = VALUES[rng.integers(len(VALUES))]
        if key == "task" and rng.random() < 0.5:
            fields[key] = [str(rng.choice(["ts", "ss"])), *map(int, rng.integers(-2, 8, 4))]
        if key == "kernel" and rng.random() < 0.5:
            fields[key] = {"kind": "stax", "function": "os:system"}
        if key == "recipe" and rng.random() < 0.5:
            fields[key] = {"data": {"name": "/etc/passwd"}, "seed": -1}
    if name == "begin":
        fields["epoch"] = VALUES[rng.integers(len(VALUES))] if rng.random() < 0.5 else int(rng.integers(0, 3))
    if kind == 1:
        text = json.dumps({"kind": name, "fields": fields, "arrays": VALUES[rng.integers(len(VALUES))]}).encode()
        return PREFIX.pack(b"KIPW", VERSION, 0, len(text), 0, zlib.crc32(text)) + text
    payload = encode(Message(name, fields, arrays))
    if kind == 2:
        damaged = bytearray(payload)
        for place in rng.integers(0, len(payload), rng.integers(1, 6)):
            damaged[place] = rng.integers(256)
        return bytes(damaged[: rng.integers(0, len(damaged) + 1)])
    return payload


def test_ten_thousand_hostile_payloads_get_an_answer_and_the_worker_lives_on(worker, caplog):
    caplog.set_level("CRITICAL")
    rng = np.random.default_rng(0)
    kinds = {}
    for _ in range(12_000):
        answer = decode(worker.handle(random_payload(rng)))
        code = answer.fields.get("code", answer.kind)
        kinds[code] = kinds.get(code, 0) + 1
    assert {"message", "run", "step", "images", "pong"} <= set(kinds), kinds
    assert kinds["message"] > 5000
    assert ask(worker, "open", opening(run="after")).kind == "opened"
    assert ask(worker, "begin", {**BEGIN, "run": "after"}, support=SUPPORT, target=TARGET).kind == "begun"
    answer = ask(worker, "forward", {**NAMES, "run": "after", "epoch": 1, "task": WHOLE})
    images = Images(KERNEL, SUPPORT, TARGET, TileSize(2, 2, 2))
    np.testing.assert_array_equal(answer.arrays["result"], task.forward(images, Task("ts", (0, 5), (0, 3))))
