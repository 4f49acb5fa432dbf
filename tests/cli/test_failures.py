"""What the machine refuses, memory, platforms and paths, comes as an error in words; a fault of ours does not."""

import errno
import json
import os
import subprocess
import sys

import pytest

from kip import cli
from kip.cli import failures
from kip.errors import ConfigError, OutOfMemoryError, OutputError
from kip.storage.locks import sole_writer


def raising(monkeypatch, error):
    def dispatch(arguments):
        raise error

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    return cli.main(["distill", "--json"])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 32.9 MiB for an array"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes."),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libjax.so: failed to map segment from shared object"),
    ],
)
def test_memory_that_is_missing_is_an_error_with_a_remedy(monkeypatch, capsys, error):
    assert raising(monkeypatch, error) == 2
    said = capsys.readouterr()
    assert said.err.startswith("kip: error: the memory is not enough; got ")
    assert said.err.count("\n") == 1
    assert json.loads(said.out)["error"]["kind"] == "OutOfMemoryError"
    assert "more memory" in json.loads(said.out)["error"]["remedy"]


def test_the_memory_behind_another_error_is_found():
    error = RuntimeError("a callback failed")
    error.__cause__ = MemoryError("Unable to allocate 8 GiB")
    assert isinstance(failures.in_our_voice(error), OutOfMemoryError)


def test_the_limit_of_the_process_is_named(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 30, 1 << 30))
    assert "`ulimit -v` allows this process 1.0 GiB" in str(failures.in_our_voice(MemoryError()))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.EIO])
def test_a_path_that_the_system_refuses_is_named(monkeypatch, capsys, number):
    assert raising(monkeypatch, OSError(number, os.strerror(number), "/some/where")) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"kip: error: cannot use /some/where; got {os.strerror(number)}.")


def test_a_name_that_is_too_long_for_a_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match="too long"), sole_writer(tmp_path / ("n" * 300)):
        pytest.fail("there is no such folder")


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("a fault"), ValueError("another")])
def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, error):
    monkeypatch.delenv(failures.PLATFORMS, raising=False)
    with pytest.raises(type(error)):
        raising(monkeypatch, error)
    monkeypatch.setenv(failures.PLATFORMS, "cpu")
    assert failures.in_our_voice(error) is None, "JAX has this platform"


def test_a_platform_that_jax_cannot_start_is_refused_in_words(monkeypatch):
    """JAX raised an assertion without a word, behind 41 lines."""
    import jax

    def devices():
        raise RuntimeError("Unable to initialize backend 'cuda': no plugin")

    monkeypatch.setenv(failures.PLATFORMS, "cuda")
    monkeypatch.setattr(jax, "devices", devices)
    error = failures.in_our_voice(AssertionError())
    assert isinstance(error, ConfigError)
    assert "JAX_PLATFORMS=cuda" in str(error)
    assert "no plugin" in str(error)


def test_numba_without_its_compiler_is_refused_in_words():
    script = "import kip.kernels.fused.compiled"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert "ConfigError: $NUMBA_DISABLE_JIT switches off the compiler" in last
    assert "--blocks.implementation engine" in last
