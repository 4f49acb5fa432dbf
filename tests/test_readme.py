"""What the README says is true: its commands parse, its Python runs, its test command is the one that .ci/run calls."""

import dataclasses
import functools
import re
import shlex
from pathlib import Path

import pytest

import kip
from kip import cli, experiment
from kip.kernels.architecture import kernel_named

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SHELL = [line for language, text in FENCES if language == "bash" for line in text.splitlines()]
PYTHON = [text for language, text in FENCES if language == "python"]
FILES = {match[1]: text for text in PYTHON if (match := re.match(r"# (\w+\.py)\n", text))}
"""The blocks that are a file of the user's, by its name."""


def kip_commands():
    """Return the arguments of each kip command, from the fences and the text."""
    inline = re.findall(r"`(kip [^`]+)`", README)
    fenced = [part for line in SHELL for part in line.split("&&")]
    commands = [shlex.split(text, comments=True) for text in [*inline, *fenced]]
    return [words[1:] for words in commands if words and Path(words[0]).name == "kip" and len(words) > 1]


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    """A folder as the README's user has it, with the two files that it shows."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KIP_DATA_DIR", raising=False)
    return tmp_path


def test_the_readme_has_commands_and_code():
    assert len(kip_commands()) >= 10
    assert len(PYTHON) >= 5
    assert set(FILES) == {"my_experiment.py", "my_network.py"}


@pytest.mark.parametrize("arguments", kip_commands(), ids=" ".join)
def test_a_command_of_the_readme_parses(arguments, user_folder, monkeypatch, capsys):
    ran = []

    original = cli.Command.function

    def idle(command):
        function = original(command)
        return functools.wraps(function)(lambda *args, **options: ran.append(args) or {})

    monkeypatch.setattr(cli.Command, "function", idle)
    monkeypatch.setattr("kip.cli.runs._run", lambda *args: ran.append(args) or {})
    if "--help" in arguments:
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert not stop.value.code
    elif len(arguments) == 1 and arguments != ["configs"]:  # the text speaks of the command as such
        assert arguments[0] in cli.COMMANDS
    else:
        assert cli.main(arguments) == 0, capsys.readouterr().err
        assert len(ran) == 1


def test_the_configs_of_the_table_exist_with_the_published_accuracy():
    table = README.split("## Configs")[1].split("\n## ")[0]
    listed = experiment.names()
    stems = {name.partition(":")[0] for name in listed}
    rows = re.findall(r"^\| (`.*?) \| .*? \| (.*?) \| .*? \|$", table, re.MULTILINE)
    named = {stem for cell, _ in rows for stem in re.findall(r"`(\w+)`", cell)}
    assert named <= stems
    assert stems - named <= {f"table_a{number}" for number in range(3, 11)}  # written as table_a3 ... table_a10
    assert f"{sum(name.startswith('table_1:') for name in listed)} rows" in table
    for cell, published in rows:
        if number := re.match(r"[\d.]+", published):
            reference = kip.load_experiment(cell.strip("`")).reference
            assert float(number[0]) == pytest.approx(100 * reference.accuracy, abs=0.05)


def test_the_kernels_of_the_readme_have_those_names():
    table = README.split("**Kernels.**")[1].split("**Preprocessing**")[0]
    names = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert len(names) >= 10
    assert [kernel_named(name).label for name in names] == names


def test_the_first_two_commands_distil_and_test_and_the_second_is_what_ci_runs():
    first, second = SHELL[:2]
    assert first.endswith("kip distill digits_convnet")
    assert second.endswith("-m pytest")
    assert second in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
def test_the_python_of_the_readme_runs_in_order(user_folder, capsys):
    quick_start = kip.load_experiment("digits_convnet")
    method = dataclasses.replace(quick_start.method, kernels=(kip.Architecture("FC", 1),), steps=20)  # for speed
    kip.run(dataclasses.replace(quick_start, method=method), Path("runs/digits_convnet"), show_progress=False)
    for text in PYTHON:
        if text not in FILES.values():
            exec(compile(text, "README.md", "exec"), {"__name__": "readme"})
    assert "% with natural images" in capsys.readouterr().out
    assert cli.main(["distill", "my_experiment.py", "--data-dir", "data"]) == 0
    assert Path("runs/my_experiment/distilled.npz").exists()
