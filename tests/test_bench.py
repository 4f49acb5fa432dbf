"""The kernel benchmark: that it runs, compares the same numbers, and counts position pairs. No test looks at a time."""

import json

import pytest

from kip import bench, cli
from kip.kernels import Architecture

A = Architecture


def test_the_command_compares_with_neural_tangents(capsys, monkeypatch):
    monkeypatch.setattr(bench, "LEAST_S", 0.0)
    command = "bench kernel --kernels FC1 --side 4 --channels 1 --blocks 2 --repeats 1 --json"
    assert cli.main(command.split()) == 0
    out = capsys.readouterr().out.splitlines()
    (row,) = json.loads(out[-1])["rows"]
    assert row["kernel"] == "FC1"
    assert row["difference"] < 1e-5
    assert row["ours"]["forward_us"] > 0
    assert row["forward_ratio"] == pytest.approx(row["neural_tangents"]["forward_us"] / row["ours"]["forward_us"])
    assert any("FC1" in line and "2x2" in line for line in out)


def test_what_is_compared_takes_turns(monkeypatch):
    monkeypatch.setattr(bench, "LEAST_S", 0.0)
    seen = []
    best = bench.best_times([lambda: seen.append("ours"), lambda: seen.append("theirs")], 3)
    assert seen == ["ours", "theirs"] * 4, "one run of each is not counted"
    assert len(best) == 2
    assert all(0 < seconds < 1 for seconds in best)


def test_position_pairs_are_those_of_the_band():
    # 15 x 15 shifts at 32x32 for two convolutions, 7 x 7 at 16x16 and 3 x 3 at 8x8 for one each.
    assert bench.position_pairs(A("ConvNet"), (32, 32, 3)) == 2 * 225 * 1024 + 49 * 256 + 9 * 64
    assert bench.position_pairs(A("ConvVec", 2), (5, 7, 1)) == 2 * 35


def test_growth_is_drawn(tmp_path, monkeypatch, capsys):
    points = [(x, bench.Cost(10.0, 40.0, 5.0)) for x in (1, 2, 4)]
    monkeypatch.setattr(bench, "growth", lambda repeats: bench.Growth(points, points, points))
    out = tmp_path / "growth.png"
    assert cli.main(["bench", "growth", "--out", str(out), "--json"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["by_depth"][1] == [2, {"forward_us": 10.0, "vjp_us": 40.0, "memory_kib": 5.0}]
