"""Signals that stop a run: a checkpoint, a line, an exit status of their own, and the same bits after all."""

import contextlib
import json
import os
import signal

import pytest

from kip import cli
from kip.data import Data
from kip.experiment import Experiment
from kip.kernels import Architecture
from kip.methods.kernel.kip import KIP
from kip.runs import checkpoint, loop, stopping
from kip.runs.callbacks import Callback
from kip.runs.stopping import NAMES, Stopped, signals_stop
from kip.server import service

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signals")


def tiny(steps=6):
    method = KIP(images_per_class=1, kernels=(Architecture("FC", 1),), target_batch=60, steps=steps)
    return Experiment(method, data=Data("digits"), checkpoint_every=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    loop.run(tiny(), out, show_progress=False)
    return out


class Sends(Callback):
    """Sends this process a signal while a step is noted."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_row(self, row):
        if row["step"] == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def _heeded():
    """Let signals come: a process that `nohup` or a shell's `&` has started ignores some, and hands that on."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (getattr(signal, name) for name in NAMES)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    """Send this process a signal, and wait until it comes."""
    os.kill(os.getpid(), number)
    signal.pause()


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_becomes_an_exception_with_a_status_of_its_own(name):
    number = getattr(signal, name)
    with pytest.raises(Stopped, match=f"stopped by {name}") as stopped, signals_stop():
        send(number)
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *given: None])
def test_a_signal_that_is_ignored_or_handled_stays_so(handler):
    """`nohup kip distill` lives on when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with signals_stop():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_does_not_cut_the_saving_short():
    saved = []

    def save_at_the_end():
        try:
            send(signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            saved.append(1)

    with pytest.raises(Stopped), signals_stop():
        save_at_the_end()
    assert saved == [1]


def test_a_signal_whose_exception_got_lost_is_raised_again():
    with signals_stop():
        with contextlib.suppress(Stopped):  # as Python does in a destructor
            send(signal.SIGTERM)
        with pytest.raises(Stopped):
            stopping.check()
    stopping.check()


def test_handlers_that_a_library_has_set_are_set_again():
    """Ray sets one for SIGTERM when it is started."""
    with signals_stop():
        ours = signal.signal(signal.SIGTERM, lambda *given: None)
        stopping.rearm()
        assert signal.getsignal(signal.SIGTERM) is ours
    stopping.rearm()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "nobody asks for it"


@pytest.mark.parametrize("step", [0, 3, 4, 6])
def test_a_run_keeps_its_last_whole_step_and_ends_in_the_same_bits(whole, tmp_path, step):
    """Step 3 lies between two checkpoints: it was lost. 0, 4 and 6 are checkpoints."""
    out = tmp_path / "run"
    with pytest.raises(Stopped) as stopped, signals_stop():
        loop.run(tiny(), out, show_progress=False, callbacks=[Sends(signal.SIGTERM, step)])
    last = max(step - 1, 0)
    assert stopped.value.step == (last or None)
    assert [int(path.stem) for path in sorted((out / "checkpoints").glob("*.npz"))][-1:] == ([last] if last else [])
    assert json.loads((out / "stopped.json").read_text()) == {"signal": "SIGTERM", "step": last or None}
    loop.run(tiny(), out, show_progress=False)
    assert (out / "distilled.npz").read_bytes() == (whole / "distilled.npz").read_bytes()
    assert not (out / "stopped.json").exists()
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(7))
    restored, history = checkpoint.read(out / "checkpoints", 6)
    assert (restored.step, [record.step for record in history.records]) == (6, [0, 4, 6])


def test_ctrl_c_keeps_the_last_whole_step_too(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        loop.run(tiny(), out, show_progress=False, callbacks=[Sends(signal.SIGINT, 3)])
    assert json.loads((out / "stopped.json").read_text()) == {"signal": "SIGINT", "step": 2}
    assert (out / "checkpoints" / "000002.npz").is_file()


def test_the_command_says_what_is_saved_and_status_who_stopped_it(tmp_path, monkeypatch, capsys):
    config, out = tmp_path / "tiny.json", tmp_path / "run"
    config.write_text(json.dumps(tiny().to_dict()))
    monkeypatch.setattr(loop.stopping, "check", lambda: os.kill(os.getpid(), signal.SIGUSR1))
    assert cli.main(["distill", str(config), "--out", str(out), "--json"]) == 128 + signal.SIGUSR1
    said = capsys.readouterr()
    assert "kip: stopped by SIGUSR1; step 1 is saved, and the same command goes on from there" in said.err
    assert "Traceback" not in said.err
    error = {"kind": "Stopped", "problem": "stopped by SIGUSR1", "step": 1}
    assert json.loads(said.out.splitlines()[-1]) == {"error": error}

    live = {"name": "a", "pid": 1, "state": "live", "tasks": 1, "bytes_sent": 1, "bytes_received": 1}
    counts = dict.fromkeys(("time", "tasks_done", "tasks_left", "tasks_per_second", "retries", "copies"), 1)
    (out / "status.json").write_text(json.dumps({**counts, "workers": [live]}))
    assert cli.main(["status", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert "stopped by a signal (SIGUSR1) at step 1 of 6; the same command goes on from there" in said.out
    assert "live" not in said.out
    assert json.loads(said.out.splitlines()[-1])["signal"] == "SIGUSR1"
    (out / "stopped.json").write_text("[5]")
    assert service.status(out)["signal"] is None
