"""The scaling law: its formula, the fit, and the command."""

import json
import math

import numpy as np
import pytest

from kip import cli
from kip.errors import ConfigError, DataError
from kip.evaluate.scaling import Observation, ScalingLaw, fit, observations

LAW = ScalingLaw(a=1.4, b=-0.3, d=0.04, tau=12.0)
GRID = [(images, epochs) for images in (10, 50, 200) for epochs in (1, 5, 20, 60)]


def test_the_law_is_the_product_over_epochs():
    images, epochs = 50, 7
    expected = LAW.a * images**LAW.b
    for j in range(2, epochs + 1):
        expected *= (j * images / ((j - 1) * images)) ** (LAW.b * 0.5 ** ((j - 1) / LAW.tau))
    assert LAW.error(images, epochs) == pytest.approx(expected + LAW.d)
    assert LAW.error(images, 1) == pytest.approx(LAW.a * images**LAW.b + LAW.d)
    fresh = ScalingLaw(1.4, -0.3, 0.0, 1e9)  # images that never wear out: epochs count as images
    assert fresh.error(10, 8) == pytest.approx(fresh.error(80, 1))


def test_the_fit_finds_the_law_and_what_it_has_not_seen(rng):
    seen = [Observation(*point, LAW.error(*point) + rng.normal(0, 1e-4)) for point in GRID]
    found = fit(seen[:-1])
    assert found.b == pytest.approx(LAW.b, rel=0.05)
    assert found.tau == pytest.approx(LAW.tau, rel=0.2)
    assert found.error(*GRID[-1]) == pytest.approx(seen[-1].error, abs=2e-3)


@pytest.mark.parametrize("points", [[], GRID[:4], [(10, 1), (20, 1), (30, 1), (40, 1), (50, 1)]])
def test_too_few_trainings_are_refused(points):
    with pytest.raises(DataError, match="of two sizes and of two numbers of epochs"):
        fit([Observation(images, epochs, 0.5) for images, epochs in points])


def table():
    sets = [{"name": f"random {images}", "images": images} for images in (10, 50, 200)]
    cells = [
        {
            "candidate": f"random {images}",
            "method": "random",
            "data": "mnist",
            "preprocess": "none",
            "network": "LeNet",
            "protocol": f"SL+KD {epochs}",
            "mean": 1 - LAW.error(images, epochs),
        }
        for images, epochs in GRID
    ]
    return {"sets": sets, "cells": cells, "epochs": {f"SL+KD {epochs}": epochs for _, epochs in GRID}}


def test_the_command_fits_a_table_and_draws_it(tmp_path, capsys):
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(table()))
    assert cli.main(["scaling", str(path), "--held-out", "2", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    results = json.loads(lines[-1])
    assert [row["held_out"] for row in results["observations"]] == [False] * 10 + [True] * 2
    last = results["observations"][-1]
    assert (last["images"], last["epochs"]) == (200, 60)
    assert math.isclose(last["predicted"], last["error"], abs_tol=2e-3)
    assert sum(line.startswith("held out: ") for line in lines) == 2
    assert results["wears_out"]
    assert not any("bound" in line for line in lines)
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_images_that_keep_their_worth_are_said_to(tmp_path, capsys):
    lasting, contents = LAW._replace(tau=1e9), table()
    for cell, point in zip(contents["cells"], GRID, strict=True):
        cell["mean"] = 1 - lasting.error(*point)
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(contents))
    assert cli.main(["scaling", str(path), "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert not json.loads(last)["wears_out"]
    assert any("images keep their worth" in line for line in lines)


def test_tables_that_do_not_fit_are_refused(tmp_path, capsys):
    with pytest.raises(DataError, match="none in the table"):
        observations(table(), "HL", None)
    with pytest.raises(DataError, match=r"comparison\.json"):
        observations({"cells": 3}, "HL", None)
    two = table()
    two["cells"][0]["network"] = "FC1"
    with pytest.raises(ConfigError, match="2 data sets or networks"):
        observations(two, "SL+KD", "random")
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(table()))
    assert cli.main(["scaling", str(path), "--held-out", "12"]) == 2
    assert "0 to 11" in capsys.readouterr().err
    assert cli.main(["scaling", str(tmp_path / "none.json")]) == 2
    assert np.isfinite(fit([Observation(*point, LAW.error(*point)) for point in GRID])).all()
