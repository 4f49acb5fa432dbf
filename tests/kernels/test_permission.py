"""Nothing that only data names is loaded: a set, a run's configuration or a message never runs a file."""

import json

import numpy as np
import pytest

import kip
from kip import cli, config, sets
from kip.errors import ConfigError
from kip.experiment import Experiment
from kip.kernels import RBF, Stax, kernel_function, permission
from kip.methods.kernel.kip import KIP
from kip.runs.loop import run

ATTACK = """
from pathlib import Path
Path({marker!r}).touch()

def kernel(x, z, get):
    return (x[:, None] * z[None]).mean((2, 3, 4)) + 1
"""
IMAGES = np.ones((2, 4, 4, 1), np.float32)


@pytest.fixture(autouse=True)
def nothing_permitted(monkeypatch):
    monkeypatch.setattr(permission, "_permitted", set())
    monkeypatch.setattr(permission, "_only_in_data", set())
    kernel_function.cache_clear()


@pytest.fixture
def attack(tmp_path):
    """A file whose loading leaves a mark: the name of its function, and the path of the mark."""
    marker = tmp_path / "it ran"
    (tmp_path / "helper.py").write_text(ATTACK.format(marker=str(marker)))
    return f"{tmp_path / 'helper.py'}:kernel", marker


def from_json(function):
    return config.from_json(Stax, json.dumps({"function": function}), source="a test")


def experiment_with(function):
    """Return the JSON form of an experiment whose kernel is a function."""
    parts = Experiment(KIP(1, kernels=(RBF(),), steps=2, target_batch=50)).to_dict()
    parts["method"]["kernels"] = [{"kind": "stax", "function": function}]
    return parts


@pytest.fixture
def evil_set(tmp_path, attack):
    """A distilled set whose metadata name the attack's function as the kernel that judges it."""
    run(Experiment(KIP(1, kernels=(RBF(),), steps=2, target_batch=50)), tmp_path / "run", show_progress=False)
    loaded = sets.load(tmp_path / "run" / "distilled.npz")
    metadata = {**loaded.metadata, "experiment": experiment_with(attack[0])}
    metadata["method"]["judge"]["kernels"] = [{"kind": "stax", "function": attack[0]}]
    path = tmp_path / "run" / "evil.npz"
    sets.save(path, loaded._replace(metadata=metadata))
    return path


@pytest.mark.parametrize("command", ["evaluate", "analyze"])
def test_a_set_runs_no_code(evil_set, attack, capsys, command):
    """`kip evaluate SET.npz` executed the Python file that the set's metadata named."""
    function, marker = attack
    assert cli.main([command, str(evil_set)]) == 2
    assert not marker.exists()
    complaint = capsys.readouterr().err
    assert function in complaint
    assert f"--stax {function}" in complaint


def test_the_user_permits_the_very_function_on_the_command_line(evil_set, attack, capsys):
    function, marker = attack
    assert cli.main(["evaluate", str(evil_set), "--stax", f"{function}s", "other:kernel"]) == 2
    assert not marker.exists()
    assert cli.main(["evaluate", str(evil_set), "--stax", function]) == 0
    assert marker.exists()


def test_a_set_is_shown_without_a_permission_because_that_runs_nothing(evil_set, attack, tmp_path):
    assert cli.main(["show", str(evil_set), "--out", str(tmp_path / "set.png")]) == 0
    assert not attack[1].exists()


def test_a_json_configuration_runs_no_code(tmp_path, attack, capsys):
    function, marker = attack
    path = tmp_path / "config.json"
    path.write_text(json.dumps(experiment_with(function)))
    arguments = ["distill", str(path), "--out", str(tmp_path / "out")]
    for more in ([], ["--seed", "1"], ["--executor", "ray"]):
        assert cli.main([*arguments, *more]) == 2
        assert f"--stax {function}" in capsys.readouterr().err
    assert not marker.exists()
    assert cli.main([*arguments, "--stax", function]) == 0
    assert marker.exists()


def test_a_run_of_ones_own_python_configuration_needs_no_permission(tmp_path, attack):
    function, marker = attack
    path = tmp_path / "mine.py"
    path.write_text(
        f"import kip\nkernels = (kip.Stax({function!r}),)\n"
        "config = kip.Experiment(kip.KIP(1, kernels=kernels, steps=1, target_batch=50))\n"
    )
    out = tmp_path / "out"
    assert cli.main(["distill", str(path), "--out", str(out)]) == 0
    assert cli.main(["status", str(out)]) == 0
    assert cli.main(["evaluate", str(out / "distilled.npz")]) == 0, "in one process, what code has named is permitted"
    assert marker.exists()


def test_what_data_names_stays_refused_whatever_becomes_of_the_value(attack):
    """Copying a value, as the overrides of the command line do, does not make it the user's."""
    function, marker = attack
    read = from_json(function)
    for kernel in (read, Stax(read.function), Stax(function, get="nngp"), from_json(function)):
        with pytest.raises(ConfigError, match=r"which a set or a \.json file names"):
            kernel_function(kernel)
    assert not marker.exists()
    kip.permit_stax(function)
    assert kernel_function(read)(IMAGES, IMAGES).shape == (2, 2)


def test_what_code_has_named_stays_permitted(attack):
    function, _ = attack
    Stax(function)
    assert kernel_function(from_json(function))(IMAGES, IMAGES).shape == (2, 2)


def test_a_method_of_someones_own_is_not_loaded_by_its_name(tmp_path, capsys):
    parts = experiment_with("x:y")
    parts["method"] = {"name": "os.system", "steps": 1}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(parts))
    assert cli.main(["distill", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "name of the method" in capsys.readouterr().err
