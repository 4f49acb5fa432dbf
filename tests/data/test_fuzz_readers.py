"""The readers of strangers' files under a fuzzer and a limit of memory, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is Linux's")


def fuzz(*options):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("fuzz_readers.py")
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout)
    return done.stdout


def test_every_file_ends_in_a_value_or_in_words():
    assert "refused: .pt" in fuzz("--seconds", "0", "--examples", "10")


@pytest.mark.slow
def test_a_minute_of_files_takes_no_memory_beyond_the_bound():
    """$KIP_FUZZ_SECONDS makes it longer, and $KIP_FUZZ_SEED another."""
    seconds, seed = os.environ.get("KIP_FUZZ_SECONDS", "60"), os.environ.get("KIP_FUZZ_SEED", "0")
    assert "memory" in fuzz("--seconds", seconds, "--seed", seed)
