"""Code in an interpreter of its own: what an import loads, and what a process leaves behind."""

import subprocess
import sys
import textwrap


def done(code, *arguments, options=(), **settings):
    """Run Python code in a new interpreter; return the finished process with what it printed."""
    command = [sys.executable, *options, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **settings)


def printed(code, *arguments, **settings):
    """Run Python code that has to succeed in a new interpreter; return what it printed."""
    process = done(code, *arguments, **settings)
    assert process.returncode == 0, process.stderr
    return process.stdout
