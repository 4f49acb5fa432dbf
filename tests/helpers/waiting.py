"""Waiting for what other processes and threads do."""

import time


def wait_until(condition, seconds=120.0, *, process=None):
    """Wait until a condition holds, and return its value.

    Args:
        condition: called again and again.
        seconds: how long it may take, at most.
        process: who has to live meanwhile, as a `subprocess.Popen`; None: nobody.
    """
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert process is None or process.poll() is None, "the process ended before"
        assert time.monotonic() < deadline, f"nothing happened for {seconds:.0f} s"
        time.sleep(0.02)
    return met
