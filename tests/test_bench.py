"""The kernel benchmark: that it runs, compares the same numbers, and counts position pairs. No test looks at a time."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from helpers.kinds import untyped
from kip import cli, machine
from kip.bench import engine, matching, memory, methods, networks, step
from kip.kernels import Architecture
from kip.methods.matching.gradient_matching import ClassDistance
from kip.networks.model import Model, Network

A = Architecture


@pytest.mark.slow
def test_the_command_compares_with_neural_tangents(capsys, monkeypatch):
    monkeypatch.setattr(engine, "LEAST_S", 0.0)
    command = "bench kernel --kernels FC1 --side 4 --channels 1 --blocks 2 --repeats 1 --json"
    assert cli.main(command.split()) == 0
    out = capsys.readouterr().out.splitlines()
    (row,) = json.loads(out[-1])["rows"]
    assert row["kernel"] == "FC1"
    assert row["difference"] < 1e-5
    assert row["ours"]["forward_us"] > 0
    assert row["forward_ratio"] == pytest.approx(row["neural_tangents"]["forward_us"] / row["ours"]["forward_us"])
    assert any("FC1" in line and "2x2" in line for line in out)


def test_the_function_is_measured_beside_the_blocks_and_neural_tangents(capsys, monkeypatch):
    monkeypatch.setattr(engine, "LEAST_S", 0.0)
    command = "bench function --kernels FC1 --side 4 --channels 1 --blocks 2 --repeats 1 --json"
    assert cli.main(command.split()) == 0
    out = capsys.readouterr().out.splitlines()
    (row,) = json.loads(out[-1])["rows"]
    assert row["difference"] < 1e-5
    for name in ("value_s", "gradient_s"):
        assert row["ratios"][name] == pytest.approx(row["function"][name] / row["blocks"][name])
        assert row["neural_tangents"][name] > 0
    assert any(line.startswith("FC1") and "2x2" in line for line in out)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of this system cannot be told to keep memory")
@pytest.mark.slow
def test_the_command_measures_memory_that_is_kept(capsys, monkeypatch):
    for name in machine.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory, "TURNS", 1)
    assert cli.main(["bench", "memory", "--side", "8", "--blocks", "2", "3", "--updates", "2", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    rows = json.loads(out[-1])["rows"]
    assert [row["images"] for row in rows] == [2, 3]
    assert all(row["ratio"] == row["given_back_s"] / row["kept_s"] > 0 for row in rows)
    assert "fresh pages" in out[0]


def test_memory_is_not_measured_where_the_environment_sets_it(capsys, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert cli.main(["bench", "memory"]) == 2
    assert "MALLOC_TRIM_THRESHOLD_" in capsys.readouterr().err


def test_what_is_compared_takes_turns(monkeypatch):
    monkeypatch.setattr(engine, "LEAST_S", 0.0)
    seen = []
    best = engine.best_times([lambda: seen.append("ours"), lambda: seen.append("theirs")], 3)
    assert seen == ["ours", "theirs"] * 4, "one run of each is not counted"
    assert len(best) == 2
    assert all(0 < seconds < 1 for seconds in best)


@pytest.mark.slow
def test_the_form_for_cpus_stands_beside_xlas(monkeypatch):
    monkeypatch.setattr(engine, "LEAST_S", 0.0)
    (row,) = engine.compare(["ConvVec1"], (4, 4, 1), [2], 1)
    assert row.difference < 1e-5
    assert row.xla_forward_us is not None
    assert row.xla_forward_ratio == pytest.approx(row.xla_forward_us / row.ours.forward_us)
    assert "2x2" in engine.table([row])


def test_position_pairs_are_those_of_the_band_inside_the_image():
    # 15 x 15 shifts at 32x32 for two convolutions, 7 x 7 at 16x16 and 3 x 3 at 8x8 for one each; a shift s leaves
    # 32 - |s| positions along an axis.
    assert engine.position_pairs(A("ConvNet"), (32, 32, 3)) == 2 * 424**2 + 100**2 + 22**2
    assert engine.position_pairs(A("ConvVec", 2), (5, 7, 1)) == 2 * 35


@pytest.mark.slow
def test_gpu_writes_its_tables_and_a_curve(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine, "LEAST_S", 0.0)
    command = "bench gpu --kernels ConvVec1 FC1 --blocks 2 3 --side 8 --channels 1 --data digits --minutes 0 --json"
    assert cli.main([*command.split(), "--out", str(tmp_path)]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "gpu.json").read_text()) == results
    assert [(row["kernel"], row["block"]) for row in results["rows"]] == [
        ("ConvVec1", 2),
        ("ConvVec1", 3),
        ("FC1", 2),
        ("FC1", 3),
    ]
    assert [row["neural_tangents"] is None for row in results["rows"]] == [False, False, True, True]
    assert all(row["forward_us"] > 0 for row in results["rows"])
    assert [row["of_operations"] is None for row in results["rows"]] == [False, False, True, True]
    assert [row["products"] for row in results["precision"]] == ["float32", "TF32"]
    assert results["precision"][0]["difference"] == 0
    assert results["same_bits"] is True
    assert len(results["kip"]["curve"]) == results["kip"]["steps"] >= 1
    assert 0 <= results["kip"]["validation_before"] <= 1
    text = (tmp_path / "gpu.md").read_text()
    assert "| ConvVec1 | 2x2 |" in text
    assert "Equal bits over 5 runs: yes." in text
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")


def test_growth_is_drawn(tmp_path, monkeypatch, capsys):
    points = [(x, engine.Cost(10.0, 40.0, 5.0)) for x in (1, 2, 4)]
    monkeypatch.setattr(engine, "growth", lambda repeats: engine.Growth(points, points, points))
    out = tmp_path / "growth.png"
    assert cli.main(["bench", "growth", "--out", str(out), "--json"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    growth = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert growth["by_depth"][1] == [2, {"forward_us": 10.0, "vjp_us": 40.0, "memory_kib": 5.0}]


def test_the_busy_time_of_devices_is_drawn(tmp_path, capsys):
    out = tmp_path / "devices.png"
    command = "bench devices --kernel ConvVec1 --side 4 --channels 1 --support 3 --targets 5 --json --out"
    assert cli.main([*command.split(), str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    told = json.loads(printed.splitlines()[-1])
    assert set(told["shares"]) == set(map(str, range(jax.local_device_count())))
    assert {span["part"] for span in told["spans"]} == {"forward", "vjp"}
    assert all(0 <= span["began"] < span["ended"] for span in told["spans"])
    for part in ("forward", "vjp"):
        spans = [span for span in told["spans"] if span["part"] == part]
        whole = max(span["ended"] for span in spans) - min(span["began"] for span in spans)
        for device, shares in told["shares"].items():
            busy = sum(span["ended"] - span["began"] for span in spans if span["device"] == int(device))
            assert shares[part] == pytest.approx(busy / whole)
    assert "forward" in printed
    for option in ("--simulated", "--support", "--targets"):
        assert cli.main(["bench", "devices", option, "0"]) == 2
        assert option in capsys.readouterr().err


@pytest.mark.slow
def test_devices_are_simulated(tmp_path):
    command = "bench devices --kernel FC1 --side 4 --support 3 --targets 50 --simulated 3 --json"
    result = subprocess.run(
        [sys.executable, "-m", "kip", *command.split()], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout.splitlines()[-1])["shares"]) == {"0", "1", "2"}


def test_the_parts_of_a_step_make_up_the_whole(capsys, monkeypatch):
    monkeypatch.setattr(step, "SIZES", ((1, 20),))
    command = "bench step --kernels ConvVec1 --side 4 --channels 1 --repeats 2 --json"
    assert cli.main(command.split()) == 0
    printed = capsys.readouterr().out
    (row,) = json.loads(printed.splitlines()[-1])["rows"]
    assert set(row["seconds"]) == {"blocks, forward", "blocks, vjp", "rest", "validation"}
    assert all(seconds > 0 for seconds in row["seconds"].values())
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert "ConvVec1" in printed


@pytest.mark.slow
def test_the_parts_of_a_networks_update_are_measured(capsys, monkeypatch):
    monkeypatch.setattr(networks, "BATCH", 2)
    command = "bench networks --widths 2 --side 8 --channels 1 --repeats 1 --json"
    assert cli.main(command.split()) == 0
    printed = capsys.readouterr().out
    rows = json.loads(printed.splitlines()[-1])["rows"]
    assert [(row["width"], row["augment"]) for row in rows] == [(2, "none"), (2, "dsa")]
    # Two images: 3x3 kernels from 1 to 2 channels at 8x8, and from 2 to 2 at 4x4 and 2x2; the first takes two passes.
    counted = 2 * 2 * 9 * (2 * 1 * 2 * 64 + 3 * 2 * 2 * 16 + 3 * 2 * 2 * 4)
    for row in rows:
        assert row["gigaflops"] == pytest.approx(counted / 1e9)
        assert min(row["seconds"], row["plain_s"], row["ratio"]) > 0
        assert sum(row["shares"].values()) == pytest.approx(1)
    assert "augmentation" in printed


@pytest.mark.slow
def test_the_methods_are_measured(capsys, monkeypatch):
    small = methods.SUBJECTS["ld", "small"]
    tiny = small._replace(method=dataclasses.replace(untyped(small.method), images_per_class=1, target_batch=10))
    monkeypatch.setitem(methods.SUBJECTS, ("ld", "small"), tiny)
    assert cli.main(["bench", "methods", "--methods", "ld", "--updates", "1", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    (row,) = json.loads(last)["rows"]
    assert (row["method"], row["size"], row["reduced"]) == ("ld", "small", "")
    assert min(row["updates_per_second"], row["cpu_seconds"], row["state_mib"]) > 0
    assert lines[0].startswith("method")
    assert lines[1].startswith("ld ")
    assert cli.main(["bench", "methods", "--methods", "kip"]) == 2
    assert "frepo" in capsys.readouterr().err


def test_every_method_is_measured_at_both_sizes_and_says_what_is_smaller():
    names = {name for name, _ in methods.SUBJECTS}
    assert set(methods.SUBJECTS) == {(name, size) for name in names for size in ("small", "paper")}
    assert all(not subject.reduced for (_, size), subject in methods.SUBJECTS.items() if size == "small")


@pytest.mark.slow
def test_the_unrolled_student_keeps_its_parameters_and_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(matching, "STUDENT_STEPS", (2, 4))
    memory = matching.memory_of_unrolling
    monkeypatch.setattr(matching, "memory_of_unrolling", lambda: memory(width=4, side=16))
    assert cli.main(["bench", "unrolling", "--out", str(tmp_path / "memory.png"), "--json"]) == 0
    points = json.loads(capsys.readouterr().out.splitlines()[-1])["points"]
    for _, kept, parameters in points:
        assert kept == pytest.approx(parameters, rel=0.01)
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_matching_without_pytorch_names_the_remedy(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["bench", "matching", "--methods", "dm", "--width", "4"]) != 0
    assert "pip install torch" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_matching_is_measured_beside_pytorch(capsys):
    options = "--methods dc dm --width 4 --real-batch 3 --updates 1 --side 16 --channels 1 --json"
    assert cli.main(["bench", "matching", *options.split()]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["method"] for row in rows] == ["dc", "dm"]
    assert all(row["ours_s"] > 0 and row["torch_s"] > 0 for row in rows)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_pytorch_loop_has_the_distance_of_ours(problem):
    """The same network, images and step of gradient matching: the same gradient by the learned images."""
    import torch

    network = Network("ConvNet-D3", width=4)
    model, theirs = Model(network, 10), matching._Torch(torch, "dc", problem, 4, 5)
    variables = model.init(jax.random.key(0), problem.inputs.shape[1:])
    body, head = theirs._network()
    layers = variables["params"]
    with torch.no_grad():
        for number, conv in enumerate(layer for layer in body if isinstance(layer, torch.nn.Conv2d)):
            conv.weight.copy_(torch.tensor(np.array(layers[f"Conv_{number}"]["kernel"])).permute(3, 2, 0, 1))
            conv.bias.zero_()
        kernel = np.array(layers["readout"]["kernel"])  # rows are (H, W, C) here and (C, H, W) there
        head.weight.copy_(torch.tensor(kernel.reshape(1, 1, 4, 10).transpose(3, 2, 0, 1).reshape(10, 4)))
        head.bias.zero_()
    theirs._network = lambda: (body, head)
    before = theirs._learned.detach().clone()
    theirs.step()
    moved = (before - theirs._learned.detach()).numpy().transpose(0, 2, 3, 1) / 0.1
    match = ClassDistance(model, "none")
    for label in range(10):
        real = problem.class_batch(label, 5, purpose="real batch", step=0)
        learned = before.numpy().transpose(0, 2, 3, 1)[label : label + 1]
        _, gradient = match.in_parts(layers, real, learned, label, jax.random.key(0))
        np.testing.assert_allclose(moved[label], gradient[0], rtol=1e-2, atol=1e-3 * np.abs(gradient).max())


def test_the_loader_is_timed_from_picture_to_device(capsys):
    assert cli.main(["bench", "loader", "--side", "8", "--pictures", "150", "--updates", "3", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    rows = json.loads(out[-1])["rows"]
    assert [row["images"] for row in rows] == [150, 150, 150, 3 * 128, 3 * 128]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"])
        assert any(line.startswith(row["part"]) for line in out)
