"""The form for GPUs compiled for a GPU that is not here: memory within the plan, no spills, no atomics."""

import pytest

from kip.bench import compiled
from kip.bench.targets import TARGETS
from kip.errors import MissingExtraError
from kip.kernels import Architecture

NEEDS_PLUGIN = pytest.mark.skipif(not compiled.is_possible(), reason="needs XLA's plugin for CUDA, and ptxas")


@pytest.mark.slow
@NEEDS_PLUGIN
@pytest.mark.parametrize(
    ("program", "block"),
    [("forward", (32, 16)), ("pull_columns", (32, 16)), ("pull_both", (32, 32)), ("pull_diagonal", (32, 32))],
)
def test_programs_for_a_gpu_stay_within_the_plan_and_spill_nothing(program, block):
    kernel, image = Architecture("ConvNet3", 2), (16, 16, 3)
    row = compiled.compiled(TARGETS["h100"], kernel, "pallas", program, block, image)
    assert row.memory_mib <= row.estimate_mib
    assert row.spilled == 0
    assert row.atomics == 0
    assert row.registers <= 255


@pytest.mark.skipif(compiled.is_possible(), reason="the plugin is installed")
def test_without_the_plugin_the_remedy_names_it():
    with pytest.raises(MissingExtraError, match="jax-cuda12-plugin"):
        compiled.compiled(TARGETS["h100"], Architecture("ConvVec", 1), "pallas", "forward", (2, 2), (4, 4, 1))


def test_a_table_says_what_is_not_known():
    row = compiled.Compiled("ConvNet", "engine", "forward", None, None, None, 349.4, 400.0, 56, 0, 0)
    other = row._replace(form="pallas", bytes_per_entry=1.25 * 2**20, bound_us=0.391, launches=57)
    lines = compiled.table([row, other]).splitlines()
    assert "| - | - | - | 349 / 400 | 56 | 0 | 0 |" in lines[2]
    assert "| 1.25 | 0.391 | 57 | 349 / 400 |" in lines[3]
