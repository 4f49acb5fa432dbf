"""Compiled programs are kept for the next command: where, how much, and when not."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kip.cli import compilation

PROGRAM = """
import sys
from kip.cli import compilation
print(compilation.keep_programs())
import jax, jax.numpy as jnp
if "compile" in sys.argv:
    hits = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
    jax.jit(lambda x: jnp.linalg.cholesky(x @ x.T + jnp.eye(50)))(jnp.ones((50, 50))).block_until_ready()
    print("/jax/compilation_cache/cache_hits" in hits)
print(jax.config.jax_compilation_cache_dir)
"""


def in_python(*arguments, **environment):
    """Run the program in a process of its own; return the lines it prints and what stands on stderr."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "KIP_"))}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**mine, **environment}, check=True)
    return done.stdout.splitlines(), done.stderr


def test_a_second_process_takes_the_programs_of_the_first(tmp_path):
    given = {"KIP_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    (folder, hit, configured), _ = in_python("compile", **given)
    assert (hit, folder) == ("False", configured)
    assert os.path.dirname(folder) == str(tmp_path)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700, "JAX runs what lies there"
    assert os.listdir(folder)
    (_, hit, _), error = in_python("compile", **given)
    assert hit == "True"
    assert error == ""


@pytest.mark.parametrize("left", [0, 100])
@pytest.mark.slow
def test_an_entry_that_a_kill_cut_short_is_made_again(tmp_path, left):
    """It stayed as it was, with a warning at each start."""
    given = {"KIP_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    (folder, *_), _ = in_python("compile", **given)
    sizes = {path: path.stat().st_size for path in Path(folder).glob("jit*")}
    for path in sizes:
        os.truncate(path, left)
    (_, hit, _), error = in_python("compile", **given)
    assert hit == "False"
    assert error == ""
    assert {path: path.stat().st_size for path in Path(folder).glob("jit*")}.keys() == sizes.keys()
    assert in_python("compile", **given)[0][1] == "True"


def test_a_cache_of_the_users_own_stays_as_it_is(tmp_path):
    (folder, configured), _ = in_python(KIP_CACHE_DIR=str(tmp_path), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert (folder, configured) == ("None", str(tmp_path / "own"))


def test_nothing_is_set_once_jax_is_imported(monkeypatch):
    before = dict(os.environ)
    assert compilation.keep_programs() is None
    assert os.environ == before


@pytest.fixture
def no_jax(monkeypatch, tmp_path):
    """As at the start of a command: JAX is not imported, and the environment says nothing of a cache."""
    monkeypatch.delitem(sys.modules, "jax")
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    return tmp_path / "cache"


@pytest.mark.parametrize("word", ["off", "OFF", "0", "no", "false"])
def test_it_can_be_switched_off(no_jax, monkeypatch, word):
    monkeypatch.setenv("KIP_COMPILATION_CACHE", word)
    assert compilation.keep_programs(no_jax) is None
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert not no_jax.exists()


def test_a_folder_that_cannot_be_written_costs_a_warning(no_jax, caplog):
    no_jax.write_text("a file")
    assert compilation.keep_programs(no_jax) is None
    assert "compiled programs are not kept" in caplog.text
    assert "KIP_COMPILATION_CACHE=off" in caplog.text
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such permissions")
@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_can_write_is_not_used(no_jax, caplog, mode):
    """JAX runs what lies in its cache: whoever can write there would run code as this user."""
    no_jax.mkdir()
    no_jax.chmod(mode)
    assert compilation.keep_programs(no_jax) is None
    assert "can be written by others" in caplog.text


def test_beyond_its_bound_what_was_unused_longest_goes(no_jax, monkeypatch):
    no_jax.mkdir(mode=0o700)
    names = [entry(name) for name in ("newest", "newer", "older", "oldest")]
    for age, name in enumerate(names):
        (no_jax / name).write_bytes(b"." * 100)
        os.utime(no_jax / name, (1000 - age, 1000 - age))
    (no_jax / compilation.CHECKED).touch()
    monkeypatch.setattr(compilation, "LARGEST_BYTES", 400)
    compilation.keep_programs(no_jax)
    assert len(list(no_jax.glob("jit_*"))) == 4, "it is not above its bound"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(compilation, "LARGEST_BYTES", 399)
    assert compilation.keep_programs(no_jax) == no_jax
    assert sorted(os.listdir(no_jax)) == [compilation.CHECKED, *sorted(names[:2])]


def entry(name):
    """Return the name of JAX's file for a program."""
    return f"jit_{name}-{'0' * 64}-cache"


@pytest.mark.parametrize("kind", ["damaged", "unused"])
def test_only_files_of_jaxs_own_names_are_ever_removed(no_jax, monkeypatch, kind):
    """A link to a folder of the user's had all of its files removed that were not zlib streams."""
    no_jax.mkdir(mode=0o700)
    others = [no_jax / name for name in ("thesis.tex", "jit_notes-cache", f"jit_a-{'0' * 63}-cache", "empty")]
    for path in others[:-1]:
        path.write_bytes(b"x is no zlib stream")
    others[-1].touch()
    (no_jax / entry("folder")).mkdir()
    (no_jax / entry("link")).symlink_to(others[0])
    (no_jax / entry("damaged")).write_bytes(b"\x78")
    if hasattr(os, "mkfifo"):
        os.mkfifo(no_jax / entry("pipe"))
    if kind == "unused":
        monkeypatch.setattr(compilation, "LARGEST_BYTES", 0)
    before = set(no_jax.iterdir())
    assert compilation.keep_programs(no_jax) == no_jax
    assert before - set(no_jax.iterdir()) == {no_jax / entry("damaged")}


def test_a_link_in_place_of_the_folder_is_not_followed(no_jax, tmp_path, caplog):
    (tmp_path / "papers").mkdir(mode=0o700)
    (tmp_path / "papers" / entry("damaged")).write_bytes(b"\x78")
    no_jax.symlink_to(tmp_path / "papers", target_is_directory=True)
    assert compilation.keep_programs(no_jax) is None
    assert "it is a link" in caplog.text
    assert os.listdir(tmp_path / "papers") == [entry("damaged")]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such permissions")
def test_a_folder_that_others_can_swap_is_not_used(no_jax, caplog):
    no_jax.mkdir(mode=0o777)
    no_jax.chmod(0o777)
    assert compilation.keep_programs(no_jax / "programs") is None
    assert "can be written by others" in caplog.text


def test_the_command_line_keeps_programs(no_jax, monkeypatch):
    from kip import cli

    monkeypatch.setenv("KIP_CACHE_DIR", str(no_jax))
    assert cli.main(["configs"]) == 0
    assert os.environ["JAX_COMPILATION_CACHE_DIR"].startswith(str(no_jax))


RUN = """
import sys
from pathlib import Path
from kip.cli import compilation
compilation.keep_programs()
import kip
method = kip.KIP(1, kernels=(kip.Architecture("ConvVec", 1),), steps=3, target_batch=50)
experiment = kip.Experiment(method, checkpoint_every=3)
kip.run(experiment, Path(sys.argv[1]), show_progress=False)
"""


@pytest.mark.slow
def test_kept_programs_give_the_same_bits(tmp_path):
    mine = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    mine |= {"KIP_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    sets = []
    for name, switch in (("without", "off"), ("writing", "on"), ("reading", "on")):
        command = [sys.executable, "-c", RUN, str(tmp_path / name)]
        subprocess.run(command, env=mine | {"KIP_COMPILATION_CACHE": switch}, check=True)
        sets.append((tmp_path / name / "distilled.npz").read_bytes())
    assert list(tmp_path.glob("cache/programs-*/jit*"))
    assert sets[0] == sets[1] == sets[2]


def test_an_old_jaxlib_keeps_no_programs(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv(compilation.VARIABLE, raising=False)
    monkeypatch.setattr(compilation, "version", lambda name: "0.6.2")
    assert compilation.keep_programs(tmp_path / "programs") is None
    assert not (tmp_path / "programs").exists()
