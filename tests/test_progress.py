"""What commands tell of work that goes on: bars on a terminal, and a few plain lines in a pipe."""

from __future__ import annotations

import io
import os
import select
import struct
import subprocess
import sys

import pytest

from kip import progress
from kip.cli.streams import Stream
from kip.progress import Board, Work


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stderr that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Let a test look at the board itself, at times of its own."""
    clock = Clock()
    monkeypatch.setattr(progress, "STAGE_SECONDS", 1.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 30.0)
    monkeypatch.setattr(progress, "BOARD", Board(clock, has_thread=False))
    return clock


def on_terminal(monkeypatch) -> Terminal:
    """Put a terminal in the place of stderr; in the test itself, as pytest sets it for each phase."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    return terminal


def looks(clock: Clock, seconds: int) -> None:
    for _ in range(2 * seconds):
        clock.now += 0.5
        progress.BOARD.look()


def test_in_a_pipe_a_stage_is_named_once_it_lasts_and_then_every_half_minute(clock, capsys):
    with progress.stage("distill mnist_dm_10"), progress.stage("reading mnist"):
        looks(clock, 65)
    assert capsys.readouterr().err.splitlines() == [
        "kip: distill mnist_dm_10; reading mnist",
        "kip: reading mnist, 00:31",
        "kip: reading mnist, 01:01",
    ]


def test_work_that_ends_at_once_says_nothing(clock, capsys):
    for _ in range(100):
        with progress.stage("reading mnist"), progress.progress_bar(10, "network", shown=True) as bar:
            bar.update(10)
            looks(clock, 0)
    assert capsys.readouterr().err == ""


def test_in_a_pipe_the_bars_within_a_bar_stand_in_its_line(clock, capsys):
    """A run of a thousand checkpoints wrote 42 kB in 90 seconds."""
    with progress.progress_bar(1000, "mnist", shown=True, unit=" steps", delay=0) as run:
        run.note("compiling the first step")
        for step in range(100):
            with progress.stage("validation"), progress.progress_bar(300, "network", shown=True) as network:
                network.update(120)
                looks(clock, 3)
            run.update()
            run.note(f"validation {step} %")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "kip: mnist: 0 of 1000 steps"
    assert lines[1] == (
        "kip: mnist: 9 of 1000 steps, validation 8 %, 00:30, about 55:03 left; validation; network: 120 of 300, "
        "00:03, about 00:04 left"
    )
    assert len(lines) == 11  # in 300 seconds


def test_in_a_pipe_the_last_state_of_a_run_stays(clock, capsys):
    with progress.progress_bar(5, "digits", shown=True, unit=" steps", stays=True, delay=0) as bar:
        bar.update(5)
    assert capsys.readouterr().err.splitlines() == ["kip: digits: 0 of 5 steps", "kip: digits: 5 of 5 steps"]


def test_a_bar_in_a_terminal_goes_on_while_nothing_is_reported(clock, monkeypatch):
    terminal = on_terminal(monkeypatch)
    with progress.progress_bar(1, "label solve", shown=True, unit=" steps", delay=0):
        for _ in range(3):
            clock.now += 40
            progress.BOARD.look()
    assert terminal.getvalue().count("\r") >= 3
    assert "0/1" in terminal.getvalue()


def test_a_bar_within_a_stage_is_headed_by_its_name(clock, monkeypatch):
    """A bar named `network` did not say that it was the validation's."""
    terminal = on_terminal(monkeypatch)
    run = progress.progress_bar(10, "mnist", shown=True, delay=0)
    with run, progress.stage("validation"), progress.progress_bar(300, "network", shown=True):
        looks(clock, 4)
    assert "validation: network:   0%" in terminal.getvalue()


def test_a_stage_is_drawn_while_nothing_goes_on_within_it(clock, monkeypatch):
    terminal = on_terminal(monkeypatch)
    with progress.stage("reading mnist"):
        looks(clock, 2)
        assert "reading mnist [" in terminal.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_validation_is_seen_at_eighty_columns(clock, monkeypatch):
    import fcntl
    import pty
    import termios

    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with progress.progress_bar(10_000, "fashion_mnist", shown=True, unit=" steps", delay=0) as bar:
            bar.note("validation 81.2 %, loss 0.0123, batch 85.0 %")
            bar.update(1234)
            progress.BOARD.look()
            drawn = ""
            while "1234/10000" not in drawn or "validation" not in drawn:
                assert select.select([reader], [], [], 30)[0], drawn  # a terminal hands over what it got in parts
                drawn += os.read(reader, 100_000).decode()
    os.close(reader)
    last = [line for line in drawn.split("\r") if line.strip()][-1]
    assert "1234/10000" in last
    assert "validation 81.2 %" in last
    assert len(last) <= 80


def test_lines_on_stdout_stand_above_the_bars(clock, monkeypatch):
    """On one terminal, a result that was printed beside a bar stood behind it in its line."""
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(sys, "stdout", Stream(terminal, beside_bars=True))
    with progress.progress_bar(10, "cells", shown=True, delay=0):
        print("a result")
    assert "\ra result\n" in terminal.getvalue()
    sys.stdout.flush()


def test_what_is_not_shown_says_nothing(clock, capsys):
    assert not Work(None, "nothing", 3).is_shown
    with progress.inner_bar(3, "kernel") as bar, progress.inner_stage("reading"):
        bar.update()
        looks(clock, 100)
    assert capsys.readouterr().err == ""


def test_what_is_counted_closes_its_bar_where_its_reader_stops(clock, capsys):
    things = progress.counted([1, 2, 3], 3, "kernels")
    assert next(things) == 1
    assert progress.BOARD.is_going_on
    things.close()
    assert not progress.BOARD.is_going_on


@pytest.mark.slow
def test_a_command_in_a_pipe_writes_few_plain_lines(tmp_path):
    config = tmp_path / "small.py"
    config.write_text(
        "import kip\n"
        "method = kip.KIP(1, kernels=(kip.Architecture('FC', 1),), steps=200, target_batch=100)\n"
        "config = kip.Experiment(method, kip.Data('digits'), checkpoint_every=10)\n"
    )
    command = [sys.executable, "-m", "kip.cli", "distill", str(config), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("kip: distill ")
    assert lines[-1].startswith("kip: digits: 200 of 200 steps, validation ")
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr
    assert len(lines) < 20


def test_rows_of_a_kernel_count_the_blocks_that_were_planned(clock, monkeypatch):
    """Label Solve over 45 000 targets said 0/1 step for half an hour."""
    import numpy as np

    from kip.blocks import Blocks, KernelBlocks
    from kip.kernels.architecture import Architecture

    made = []

    def noted(total: int, what: str, *, unit: str = "") -> Work:
        made.append(Work(None, what, total, unit=unit))
        return made[-1]

    monkeypatch.setattr("kip.blocks.assemble.inner_bar", noted)
    monkeypatch.setattr("kip.blocks.assemble.ROWS_AT_A_TIME", 10)
    images = np.zeros((23, 2, 2, 1), np.float32)
    with KernelBlocks(Blocks(task_columns=2)) as blocks:
        rows = list(blocks.rows(Architecture("FC", 1), images[:5], images))
    assert sum(len(block) for _, block in rows) == 23
    assert len(made) == 1
    assert (made[0].what, made[0].unit, made[0].done) == ("kernel", " blocks", made[0].total)
    assert made[0].total > len(rows)
