"""stdout and stderr that are closed, full, without a reader or of a small alphabet: the work is done and saved."""

import errno
import io
import json
import logging
import os
import subprocess
import sys

import pytest

from helpers.kinds import some
from kip import cli
from kip.cli import streams
from kip.cli.streams import Stream, lasting
from kip.errors import ConfigError
from kip.progress import progress_bar

CONFIG = """
import kip

method = kip.KIP(images_per_class=1, target_batch=50, steps=2, kernels=(kip.Architecture("FC", 1),))
config = kip.Experiment(method, checkpoint_every=2)
"""


class Failing(io.StringIO):
    """A stream whose disk is full, or whose reader has gone."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))

    def flush(self):
        raise OSError(self.number, os.strerror(self.number))


def test_a_stream_that_fails_lets_everything_pass_and_remembers_why():
    stream = Stream(Failing(errno.ENOSPC))
    print("a line", file=stream, flush=True)
    assert some(stream.error).errno == errno.ENOSPC
    closed = io.StringIO()
    closed.close()
    print("a line", file=(stream := Stream(closed)))
    assert some(stream.error).errno == errno.EBADF


@pytest.mark.parametrize("text", ["Ünï", "\udcff", "数字"])
def test_a_letter_that_the_terminal_lacks_is_written_as_its_code(text):
    raw = io.BytesIO()
    stream = Stream(io.TextIOWrapper(raw, encoding="ascii"))
    print(text, file=stream, flush=True)
    assert stream.error is None
    assert raw.getvalue().decode("ascii") == text.encode("ascii", "backslashreplace").decode() + os.linesep


@pytest.mark.parametrize(
    ("out", "status", "words"),
    [
        (None, 0, ""),
        (errno.EPIPE, cli.CLOSED_PIPE, ""),
        (errno.ENOSPC, 2, "kip: error: the results could not be printed; got No space left on device."),
    ],
)
def test_what_cannot_be_printed_is_said_at_the_end(monkeypatch, out, status, words):
    err = io.StringIO()
    monkeypatch.setattr(sys, "stdout", None if out is None else Failing(out))
    monkeypatch.setattr(sys, "stderr", err)
    assert cli.main(["--version"]) == status
    assert err.getvalue().startswith(words)
    assert bool(words) == bool(err.getvalue())


@pytest.mark.parametrize("err", [None, Failing(errno.ENOSPC)])
def test_an_error_that_nobody_can_read_still_has_its_status_and_object(monkeypatch, err, capsys):
    monkeypatch.setattr(sys, "stderr", err)
    assert cli.main(["nonsense", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "ConfigError"


def test_the_streams_of_before_come_back():
    before = sys.stdout, sys.stderr
    with lasting() as out:
        assert sys.stdout is out
    with pytest.raises(ConfigError), lasting():
        raise ConfigError("an error")
    assert (sys.stdout, sys.stderr) == before


def test_a_bar_without_a_stderr_is_not_drawn(monkeypatch):
    """A program without a terminal, as a service has it, ended at the first bar."""
    monkeypatch.setattr(sys, "stderr", None)
    with progress_bar(3, "work", shown=True) as bar:
        bar.update()
    assert not bar.is_shown


def test_watching_ends_when_nobody_reads(monkeypatch, tmp_path):
    from kip.cli.options import while_going_on

    monkeypatch.setattr("kip.storage.locks.has_writer", lambda run: True)
    monkeypatch.setattr(sys, "stdout", Failing(errno.EPIPE))
    seen = 0
    with lasting():
        for _ in while_going_on([tmp_path], 0.0):
            seen += 1
            print("a line", flush=True)
    assert (seen, streams.nobody_reads()) == (1, False)


def test_a_file_takes_no_number_of_a_closed_stream(tmp_path):
    """Whatever a library wrote to stderr would have stood in the next file, a checkpoint for instance."""
    script = (
        "import os, sys\n"
        "from kip.cli.streams import lasting\n"
        "with lasting(): print('lost', file=sys.stderr); print(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY))"
    )
    command = f'exec {sys.executable} -c "$0" {tmp_path / "file"} 2>&- <&-'
    done = subprocess.run(["bash", "-c", command, script], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a full device")
@pytest.mark.slow
def test_a_run_without_stderr_and_with_a_full_stdout_goes_to_its_end(tmp_path):
    """All its steps ran, and then it ended with status 1, without a result and without a word."""
    (tmp_path / "tiny.py").write_text(CONFIG)
    command = f"{sys.executable} -m kip.cli distill tiny.py --out run 2>&- >/dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, timeout=600, check=False)
    assert done.returncode == 2, "its results were not printed"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2
    assert (tmp_path / "run" / "images.png").is_file()


def test_logging_survives_a_stderr_that_fails(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Failing(errno.ENOSPC))
    with lasting():
        handler = logging.StreamHandler(sys.stderr)
        handler.handle(logging.LogRecord("kip", logging.WARNING, __file__, 1, "a warning", (), None))
