"""What a run notes of its machine, also where the system does not say."""

import importlib.metadata
import os
import platform
import sys

import jax
import numpy as np
import pytest

from helpers.interpreter import printed
from helpers.kinds import some
from kip import machine


@pytest.mark.slow
def test_peak_memory_grows_with_what_is_held():
    before = some(machine.peak_memory_mib())
    held = np.ones(before * 2**20 // 8 + 2**24)
    assert some(machine.peak_memory_mib()) >= before + 100
    assert held[0] == 1


def test_without_the_resource_module_the_peak_is_unknown(monkeypatch):
    """Windows has no `resource`; importing it at the top of a file failed there."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert machine.peak_memory_mib() is None


@pytest.mark.skipif(sys.platform != "linux", reason="this is about Linux's memory maps")
def test_programs_are_forgotten_once_half_of_the_memory_maps_are_used(tmp_path, monkeypatch):
    """Where there are none left, XLA ends the process with a segmentation fault."""
    before = maps_used()
    programs = [jax.jit(lambda x, number=number: x * 2 + number) for number in range(40)]
    for program in programs:
        program(np.ones(3))
    used = maps_used()
    assert used >= before + 80

    monkeypatch.setattr(machine, "MOST_MEMORY_MAPS", tmp_path / "most")
    (tmp_path / "most").write_text(f"{3 * used}\n")
    assert machine.forget_programs_near_limit() is False
    assert maps_used() >= used

    (tmp_path / "most").write_text(f"{used}\n")
    assert machine.forget_programs_near_limit() is True
    assert maps_used() <= used - 60
    assert programs[1](np.ones(3)).tolist() == [3, 3, 3]


def test_where_the_system_tells_no_limit_programs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MOST_MEMORY_MAPS", tmp_path / "not there")
    assert machine.forget_programs_near_limit() is False


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="this is about glibc")
def test_freed_memory_is_kept_for_the_next_array():
    """In a process of its own, since the setting is one of the whole process."""
    output = in_a_process("""
        import numpy as np
        from kip import machine

        def pages():
            before = machine.fresh_pages()
            for _ in range(5):
                np.ones(12 << 20)
            return machine.fresh_pages() - before

        print(machine.keep_freed_memory(keep=False), pages() > 1000)
        print(machine.keep_freed_memory(), pages() > 100, pages() < 100)
    """)
    assert output == "False True\nTrue True True\n"


@pytest.mark.parametrize("name", machine.SETTINGS)
def test_memory_is_left_alone_where_the_user_has_set_it(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert machine.keep_freed_memory() is False


def test_the_command_line_keeps_memory_and_an_import_does_not():
    output = in_a_process("""
        from kip import cli

        asked = []
        cli.keep_freed_memory = lambda: asked.append("asked")
        import kip
        print(asked)
        cli.main(["--version"])
        print(asked)
    """)
    assert output.splitlines()[::2] == ["[]", "['asked']"]


def in_a_process(code):
    """Run code in a fresh process without settings of the C library; return what it printed."""
    return printed(code, env={name: value for name, value in os.environ.items() if name not in machine.SETTINGS})


def test_versions_name_all_that_equal_bits_depend_on():
    versions = machine.versions()
    assert {"python", "kip", "jax", "jaxlib", "numpy", "device"} <= versions.keys()
    assert versions["jaxlib"] == importlib.metadata.version("jaxlib")
    assert some(versions["device"]).startswith("cpu: ")
    assert versions == machine.versions()


def test_a_library_that_is_no_installed_package_has_no_version(monkeypatch):
    monkeypatch.setattr(machine, "LIBRARIES", ("no-such-package",))
    assert machine.versions()["no-such-package"] is None


@pytest.mark.parametrize("cpuinfo", [None, b"\xff\xfe", b"processor : 0\n"])
def test_a_processor_that_the_system_does_not_name_still_has_a_name(monkeypatch, tmp_path, cpuinfo):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_bytes(cpuinfo)
    monkeypatch.setattr(machine, "CPUINFO", path)
    assert machine.device_kind().removeprefix("cpu: ")


def test_importing_the_file_imports_no_jax():
    code = (
        "import sys, kip.machine, kip.storage.locks, kip.storage.npz, kip.cli.compilation; print('jax' in sys.modules)"
    )
    assert printed(code) == "False\n"


def maps_used():
    return len(machine.MEMORY_MAPS.read_text().splitlines())
