"""The command line: what it prints and returns, its help, and every kind of bad input refused in words."""

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from helpers import interpreter
from helpers.kinds import some
from kip import cli
from kip.cli import runs
from kip.data import tfds
from kip.errors import ConfigError
from kip.runs import loop
from kip.storage.locks import sole_writer

TINY = """
import kip

config = kip.Experiment(
    data=kip.Data({data!r}),
    method=kip.KIP({method}images_per_class=2, target_batch=50, steps=4, kernels=({kernel},)),
    checkpoint_every=2,{more}
)
"""
FC1 = "kip.Architecture('FC', 1)"
COMMANDS = tuple(cli.COMMANDS)


class Outcome(NamedTuple):
    status: object
    out: str
    err: str

    @property
    def last_line(self):
        return json.loads(self.out.splitlines()[-1])

    @property
    def complaint(self):
        """What stands on stderr, without the frames and line breaks that tyro puts around it."""
        return " ".join(re.sub("[│╭╮╰╯─]", " ", self.err).split())


def kip(*arguments):
    """Run `kip ARGUMENTS` in this process. An exception that escapes, and would be a traceback, fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # how tyro ends
            status = stop.code
    return Outcome(status, out.getvalue(), err.getvalue())


def write_config(folder, name="tiny.py", *, data="digits", method="", kernel=FC1, more=""):
    path = folder / name
    path.write_text(TINY.format(data=data, method=method, kernel=kernel, more=more))
    return path


def refused(outcome, *words):
    """Check that the outcome is an error in words, which name all of `words`."""
    assert outcome.status == 2, outcome
    assert re.match("kip: error: |(Unrecognized options|Value error|Invalid choice) ", outcome.complaint)
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.complaint, (word, outcome.complaint)
    assert outcome.out == ""


class Finished(NamedTuple):
    config: Path
    run: Path
    outcome: Outcome


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run that has ended; tests that change its folder copy it."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder)
    outcome = kip("distill", config, "--out", folder / "run", "--json")
    assert outcome.status == 0, outcome.err
    return Finished(config, folder / "run", outcome)


@pytest.fixture
def run_copy(finished, tmp_path):
    return Path(shutil.copytree(finished.run, tmp_path / "run"))


# What comes out


@pytest.fixture
def shown(finished, monkeypatch):
    """What `kip distill` prints of a result, for changes of the result, without a run."""
    result = loop.Result(
        test_accuracy=0.8,
        validation_accuracy=0.8,
        initial_test_accuracy=0.5,
        paper_test_accuracy=0.79,
        paper_test_spread=0.01,
        paper_steps=[2, 4],
        exported_step=4,
        steps=4,
        seconds=1.0,
        peak_memory_mib=100,
        out="run",
        class_test_accuracies=[0.7, None, 0.9],
    )

    def shown(*options, **changes):
        monkeypatch.setattr(runs, "_train", lambda *arguments: result._replace(**changes))
        return kip("distill", finished.config, *options)

    return shown


@pytest.mark.slow
def test_a_result_is_shown_with_its_memory_and_without_a_deviation_of_one(shown):
    outcome = shown()
    assert "mean of 2          79.00 +- 1.00 %  (checkpoints of lowest train loss)" in outcome.out
    assert "4 steps in 1 s and 100 MiB" in outcome.out
    assert "by class           70.0 % (class 0) to 90.0 % (class 2)" in outcome.out
    assert "warning" not in outcome.err
    assert "mean of" not in shown(paper_steps=[4], paper_test_spread=0.0).out


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ((), {"test_accuracy": 0.5}, "the set is no better than the natural images"),
        ((), {"exported_step": 0}, "validation accuracy only fell from its start"),
        (("--method.steps", "3"), {}, "the run had 4 steps already, more than the 3"),
    ],
)
@pytest.mark.slow
def test_a_result_that_should_not_be_overlooked_comes_with_a_warning(shown, options, changes, words):
    assert f"kip: warning: {words}" in shown(*options, **changes).err


@pytest.mark.parametrize(
    ("options", "is_shown"), [((), True), (("--seed", "3"), True), (("--method.steps", "3"), False)]
)
def test_the_published_figure_is_shown_for_the_configuration_as_it_is(tmp_path, shown, options, is_shown):
    config = write_config(tmp_path, more="reference=kip.Reference('Some paper', accuracy=0.9),")
    shown()
    assert ("published          90.0 % (Some paper)" in kip("distill", config, *options).out) == is_shown


def test_distill_gives_its_results_as_the_last_line_and_fills_the_run_folder(finished):
    result = finished.outcome.last_line
    assert result["out"] == str(finished.run)
    assert result["steps"] == 4
    assert result["seconds"] > 0
    assert 0.5 < result["test_accuracy"] <= 1
    assert 0.5 < result["validation_accuracy"] <= 1
    for name in ("config.json", "metrics.jsonl", "distilled.npz", "images.png", "curves.png", "result.json"):
        assert (finished.run / name).stat().st_size > 0, name
    assert sorted(path.stem for path in (finished.run / "checkpoints").iterdir()) == ["000000", "000002", "000004"]
    assert f"{100 * result['test_accuracy']:.2f} %" in finished.outcome.out


def test_a_finished_run_run_again_takes_no_step_and_gives_the_same(finished, run_copy):
    before = {path.name: path.read_bytes() for path in run_copy.iterdir() if path.suffix in (".npz", ".jsonl")}
    again = kip("distill", finished.config, "--out", run_copy, "--json")
    assert again.status == 0
    changing = {"out", "peak_memory_mib", "cost"}  # `seconds` too must stay: they count the computing of steps
    for name in finished.outcome.last_line.keys() - changing:
        assert again.last_line[name] == finished.outcome.last_line[name], name
    for name, content in before.items():
        assert (run_copy / name).read_bytes() == content, name


def test_a_runs_own_config_json_names_the_same_experiment(finished, run_copy):
    again = kip("distill", finished.run / "config.json", "--out", run_copy, "--json")
    assert again.status == 0, again.err
    assert again.last_line["test_accuracy"] == finished.outcome.last_line["test_accuracy"]


def test_overrides_reach_the_run(finished, tmp_path):
    out = tmp_path / "run"
    outcome = kip(
        "distill", finished.config, "--out", out, "--method.steps", "2", "--seed", "7", "--method.no-learn-labels"
    )
    assert outcome.status == 0, outcome.err
    kept = json.loads((out / "config.json").read_text())
    assert (kept["method"]["steps"], kept["seed"], kept["method"]["learn_labels"]) == (2, 7, False)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3  # step 0 and two more


def test_label_solve_takes_a_kip_config_and_gives_its_results(finished, tmp_path):
    outcome = kip("label-solve", finished.config, "--out", tmp_path / "solved", "--json")
    assert outcome.status == 0, outcome.err
    result = outcome.last_line
    assert {"test_accuracy", "validation_accuracy", "steps", "seconds", "out"} <= result.keys()
    assert result["steps"] == 1
    assert result["test_accuracy"] > result["initial_test_accuracy"]  # solved labels against one-hot ones
    assert json.loads((tmp_path / "solved" / "config.json").read_text())["method"]["name"] == "label_solve"


def test_the_default_folder_is_named_after_config_row_and_command(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.py").write_text(finished.config.read_text() + "\nrows = {'small': config}\n")
    outcome = kip("label-solve", "table.py:small", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.last_line["out"] == "runs/table.py-small-label-solve"


def test_evaluate_gives_the_runs_own_accuracy(finished):
    outcome = kip("evaluate", finished.run / "distilled.npz", "--json")
    assert outcome.status == 0, outcome.err
    for name in ("test_accuracy", "validation_accuracy"):
        assert outcome.last_line[name] == finished.outcome.last_line[name]
    assert [kernel["kernel"] for kernel in outcome.last_line["kernels"]] == ["FC1"]


def test_evaluate_under_other_kernels_gives_each_and_their_mean(finished):
    outcome = kip("evaluate", finished.run / "distilled.npz", "--kernel", "FC2", "rbf", "--get", "nngp", "--json")
    assert outcome.status == 0, outcome.err
    kernels = outcome.last_line["kernels"]
    assert [evaluated["kernel"] for evaluated in kernels] == ["FC2 NNGP", "RBF"]
    assert outcome.last_line["test_accuracy"] == pytest.approx(
        np.mean([evaluated["test_accuracy"] for evaluated in kernels])
    )
    assert "FC2 NNGP" in outcome.out


def test_evaluate_under_random_features_takes_a_ridge(finished):
    arguments = ("--features", "ConvNet-D3 width=4 norm=none", "--networks-per-draw", "2", "--ridge", "0.01")
    outcome = kip("evaluate", finished.run, "--kernel", "FC1", *arguments, "--json")
    assert outcome.status == 0, outcome.err
    kernel, features = outcome.last_line["kernels"]
    assert (kernel["kernel"], features["kernel"]) == ("FC1", "ConvNet-D3 width=4 norm=none")
    assert kernel["test_spread"] is None
    assert features["test_spread"] > 0


def test_a_ridge_without_a_kernel_is_refused(finished):
    refused(kip("evaluate", finished.run, "--ridge", "0.1"), "--ridge", "0.1", "--kernel or --features")


def test_show_draws_a_picture_beside_the_set(run_copy):
    outcome = kip("show", run_copy / "distilled.npz", "--json")
    assert outcome.status == 0, outcome.err
    said = outcome.last_line
    assert said.pop("cost")["seconds"] > 0
    assert said == {"out": str(run_copy / "distilled.png"), "images": 20}
    assert (run_copy / "distilled.png").read_bytes().startswith(b"\x89PNG")


def test_show_draws_where_it_is_told(finished, tmp_path):
    outcome = kip("show", finished.run / "distilled.npz", "--out", tmp_path / "new" / "picture.png")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "new" / "picture.png").is_file()


def test_configs_lists_every_name_with_its_published_result():
    outcome = kip("configs", "--json")
    listed = outcome.last_line["configs"]
    assert "quick start" in listed["digits_convnet"]
    assert listed["table_a5:ipc10_plain"].startswith("61.0 +- 0.2 %")
    assert len(outcome.out.splitlines()) <= 24 + 1  # a screen of families, and the object


# Help


@pytest.mark.parametrize("code", ["import kip, kip.cli", "from kip import cli\ncli.main(['--help'])"])
def test_help_and_import_load_no_heavy_library(code):
    report = (
        "import sys, atexit\n"
        "heavy = {'jax', 'jaxlib', 'tensorflow', 'tensorflow_datasets', 'matplotlib', 'scipy', 'sklearn', 'optax'}\n"
        "atexit.register(lambda: print('loaded:', sorted(heavy & set(sys.modules)), 'kip.cli' in sys.modules))\n"
    )
    assert "loaded: [] True" in interpreter.printed(report + code)


def test_help_lists_every_command():
    outcome = kip("--help")
    assert outcome.status == 0
    for command in COMMANDS:
        assert re.search(rf"(?m)^\W+{command}\s", outcome.out), command


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_begins_as_the_command_s_own_help_does(name):
    command = cli.COMMANDS[name]
    assert (command.function().__doc__ or "").split()[:2] == command.summary.split()[:2]


def test_a_network_and_a_data_set_are_written_as_tables_name_them():
    from kip.cli.options import named
    from kip.config import label
    from kip.data import Data
    from kip.networks import Network

    for value in (
        Network("ConvNet-D3", 32, "none", growth=2),
        Network("LeNet"),
        Data("mnist", shrink=2),
        Data("digits"),
    ):
        assert named(type(value), label(value)) == value
    with pytest.raises(ConfigError, match="NAME FIELD=VALUE"):
        named(Network, "ConvNet wide")
    with pytest.raises(ConfigError, match="unknown key 'wide'"):
        named(Network, "ConvNet wide=3")


@pytest.mark.parametrize(
    ("words", "config", "others"),
    [
        ("a.py --out b --seed 3", "a.py", "--out b --seed 3"),
        ("--out b a.py --seed 3", "a.py", "--out b --seed 3"),
        ("--json --method.steps 5 a.py", "a.py", "--json --method.steps 5"),
        ("--no-json --out=b a.py --json", "a.py", "--no-json --out=b --json"),
        ("--log tensorboard wandb a.py", "a.py", "--log tensorboard wandb"),
        ("--mixed_hardware a.py", "a.py", "--mixed_hardware"),
        ("--help", None, "--help"),
        ("--out b", None, "--out b"),
        ("", None, ""),
    ],
)
def test_the_configuration_may_stand_anywhere_among_the_options(words, config, others):
    from kip.cli.options import config_first

    assert config_first(words.split()) == (config, others.split())


def test_options_in_front_of_the_configuration_do_what_they_do_behind_it(finished, tmp_path):
    outcome = kip("distill", "--out", str(tmp_path / "run"), "--method.steps", "2", finished.config, "--json")
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out.splitlines()[-1])
    assert (result["steps"], result["out"]) == (2, str(tmp_path / "run"))


def test_a_command_of_several_parts_lists_them_and_refuses_others():
    for arguments in (["bench"], ["bench", "--help"]):
        outcome = kip(*arguments)
        assert outcome.status == 0
        assert re.findall(r"(?m)^  (bench \w+)", outcome.out) == [
            name for name in COMMANDS if name.startswith("bench ")
        ]
        assert "label-solve" not in outcome.out
    outcome = kip("bench", "kernels")
    assert outcome.status == 2
    assert "Did you mean `kip bench kernel`?" in outcome.err
    outcome = kip("bench", "kernel", "--minutes", "3")  # an option of another part
    assert outcome.status == 2
    assert "--minutes" in outcome.err


def test_without_a_command_help_is_shown():
    assert kip() == kip("--help")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_the_json_option(command):
    outcome = kip(*command.split(), "--help")
    assert outcome.status == 0
    assert "--json" in outcome.out
    assert (
        "(required)" in outcome.out
        or command in ("choose", "configs", "compare", "dcs", "sets")
        or command.startswith("bench ")
    )


def test_help_for_a_config_lists_its_values(finished):
    outcome = kip("distill", finished.config, "--help")
    assert outcome.status == 0
    assert re.search(r"--method\.steps INT\s+│?\s*│?\s*The largest number of updates\. \(default: 4\)", outcome.out)
    for option in ("--data.validation", "--preprocess.kind", "--method.kernels.0.depth", "--out", "--json", "--seed"):
        assert option in outcome.out, option


def test_a_closed_pipe_ends_in_silence():
    command = f"{sys.executable} -m kip configs | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, cli.CLOSED_PIPE)  # 0: the pipe took all before its reader went
    assert len(done.stdout.splitlines()) == 1
    assert all(line.startswith("kip: ") for line in done.stderr.splitlines())  # what goes on, and no more
    assert "error" not in done.stderr


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_goes_to_its_end(finished, tmp_path):
    """`kip distill ... | head -1`: the pipe closes while the run prints, and the run's folder has all the same."""
    out = tmp_path / "run"
    command = f"{sys.executable} -m kip.cli distill {finished.config} --out {out} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, cli.CLOSED_PIPE)
    assert "Traceback" not in done.stderr
    assert (out / "distilled.npz").read_bytes() == (finished.run / "distilled.npz").read_bytes()
    assert json.loads((out / "result.json").read_text())["steps"] == 4


# Bad configurations


def test_an_error_of_the_command_itself_is_one_line_and_status_2(tmp_path):
    script = "import sys\nfrom kip.cli import main\nsys.exit(main(sys.argv[1:]))"
    done = interpreter.done(script, "distill", "no_such_config", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    *going_on, last = done.stderr.splitlines()
    assert last.startswith("kip: error: no config 'no_such_config'")
    assert all(re.match("kip: (distill|loading|reading) ", line) for line in going_on)
    assert not list(tmp_path.iterdir())


def test_an_error_under_json_is_an_object_on_the_last_line(tmp_path):
    outcome = kip("evaluate", tmp_path / "none.npz", "--json")
    assert outcome.status == 2
    assert outcome.last_line["error"]["kind"] == "DataError"
    assert "no distilled set at" in outcome.last_line["error"]["problem"]
    assert "`kip distill` writes" in outcome.last_line["error"]["remedy"]


def test_an_empty_argument_is_refused_before_it_names_the_working_folder(finished):
    refused(kip("distill", finished.config, "--out", ""), "the argument after --out; got an empty one")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["distil", "digits_convnet"], "`kip distill`"),
        (["distill", "digit_convnet"], "digits_convnet"),
        (["distill", "table_1:cifar10_ipc1_kp"], "cifar10_ipc1_kip"),
        (["natural", "digit"], "digits"),
        (["natural", "digits", "--kernel", "ConvNett"], "ConvNet"),
        (["distill", "digits_convnet", "--data.name", "cifar-10"], "cifar10"),
    ],
    ids=lambda each: " ".join(each)[:40],
)
def test_a_mistyped_name_is_answered_with_the_one_that_is_meant(arguments, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kip.data.tfds.read", unknown_to_tfds)
    refused(kip(*arguments), f"Did you mean {meant}?")


def unknown_to_tfds(name):
    raise tfds.UnknownName("version 0: not there")


def test_two_sets_of_one_file_name_are_told_apart(finished, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        shutil.copy(finished.run / "distilled.npz", tmp_path / folder / "set.npz")
    outcome = kip("evaluate", tmp_path / "a" / "set.npz", tmp_path / "b" / "set.npz", finished.run, "--json")
    names = [each["set"] for each in outcome.last_line["sets"]]
    assert names == [str(tmp_path / "a" / "set"), str(tmp_path / "b" / "set"), finished.run.name]


def test_show_takes_a_runs_folder(run_copy):
    assert kip("show", run_copy).status == 0
    assert (run_copy / "distilled.png").exists()


def test_an_unknown_command_is_refused():
    refused(kip("distil", "digits_convnet"), "'distil'", "Did you mean `kip distill`?", "`kip --help` lists")


@pytest.mark.parametrize("command", ["distill", "label-solve"])
def test_an_unknown_config_is_refused_with_the_known_ones(command):
    refused(kip(command, "nonesuch"), "'nonesuch'", "a name that `kip configs` lists")
    refused(kip(command, "digit_convnet"), "Did you mean digits_convnet?")


def test_a_table_without_a_row_is_refused_with_its_rows():
    refused(kip("distill", "table_a5"), "'table_a5'", "table_a5:ROW", "ipc10_plain")


def test_a_row_of_a_config_that_is_no_table_is_refused():
    refused(kip("distill", "digits_convnet:ipc10"), "'digits_convnet:ipc10'", "rows = {name: kip.Experiment(...)}")


def test_an_unknown_key_on_the_command_line_is_refused(finished):
    refused(kip("distill", finished.config, "--method.stepz", "3"), "--method.stepz", "--method.steps", "--help")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda content: content["method"].update(stepz=3), "'method.stepz'"),
        (lambda content: content.update(sede=3), "'sede'"),
        (lambda content: content["method"]["kernels"][0].update(width=3), "'method.kernels.0.width'"),
    ],
)
def test_an_unknown_key_in_a_json_config_is_refused(finished, tmp_path, change, key):
    content = json.loads((finished.run / "config.json").read_text())
    change(content)
    (tmp_path / "typo.json").write_text(json.dumps(content))
    refused(kip("distill", tmp_path / "typo.json"), "typo.json", f"unknown key {key}", "--help` lists the keys")


def test_an_unknown_keyword_in_a_python_config_is_refused(tmp_path):
    config = write_config(tmp_path, method="stepz=3, ")
    refused(kip("distill", config), "tiny.py", "KIP", "unknown key 'stepz'", "--help` lists the keys")


@pytest.mark.parametrize(
    ("option", "given", "words"),
    [
        ("--method.steps", "many", ["invalid literal", "'many'"]),
        ("--method.steps", "0", ["got 0", "greater than or equal to 1"]),
        ("--method.learning-rate", "fast", ["could not convert", "'fast'"]),
        ("--preprocess.kind", "zcaa", ["'zcaa'", "'zca'", "'standardize'"]),
        ("--seed", "-1", ["got -1", "greater than or equal to 0"]),
    ],
)
def test_a_wrong_value_on_the_command_line_is_refused(finished, option, given, words):
    refused(kip("distill", finished.config, option, given), option.rpartition(".")[2].lstrip("-"), *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["method"].update(steps="3"), ["method.steps: got '3'", "integer"]),
        (lambda content: content.update(seed=1.5), ["seed: got 1.5", "integer"]),
        (lambda content: content["method"]["kernels"][0].update(family="FCC"), ["method.kernels.0.family", "'FC'"]),
        (lambda content: content["method"].update(name="kipp"), ["name of the method; got 'kipp'", "label_solve"]),
        (lambda content: content.pop("method"), ["missing key 'method'"]),
        (lambda content: content["data"].update(name=None), ["data.name: got None", "string"]),
    ],
)
def test_a_wrong_type_in_a_json_config_is_refused(finished, tmp_path, change, words):
    content = json.loads((finished.run / "config.json").read_text())
    change(content)
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    outcome = kip("distill", tmp_path / "wrong.json")
    refused(outcome, "wrong.json", *words)
    assert len(outcome.err) < 600  # the fault and the names that there are, and not the whole file


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"more": "seed='one'"}, ["Experiment", "seed: got 'one'", "integer"]),
        ({"method": "'two', "}, ["KIP", "multiple values", "images_per_class"]),
        ({"method": "learn_labels=1, "}, ["KIP", "learn_labels: got 1", "boolean"]),
        ({"kernel": "'FC1'"}, ["KIP", "kernels.0: got 'FC1'"]),
        ({"kernel": "kip.Architecture('FCC')"}, ["Architecture", "family: got 'FCC'", "'ConvVec'"]),
        ({"kernel": "kip.Architecture('Myrtle', 6)"}, ["Myrtle", "got 6", "5, 7 or 10"]),
        ({"kernel": f"{FC1}, {FC1}"}, ["kernels", "the same kernel twice"]),
    ],
)
def test_a_wrong_type_in_a_python_config_is_refused(tmp_path, parts, words):
    refused(kip("distill", write_config(tmp_path, **parts)), "tiny.py", *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.py", b"import kip\nconfig = kip.Experiment(\n", ["SyntaxError", "never closed", "line 2"]),
        ("broken.py", b"import no_such_module\n", ["ModuleNotFoundError", "no_such_module"]),
        ("broken.py", b"1 / 0\n", ["ZeroDivisionError"]),
        ("empty.py", b"", ["config = None", "config = kip.Experiment(...)"]),
        ("binary.py", b"\xff\xfe\x00", ["cannot read", "0xff"]),
        ("broken.json", b"{nope", ["Invalid JSON", "line 1"]),
        ("list.json", b"[]", ["list.json", "got []"]),
        ("binary.json", b"\xff\xfe\x00", ["cannot read", "0xff"]),
    ],
)
def test_a_config_file_that_cannot_be_run_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    refused(kip("distill", tmp_path / name), name, *words)


@pytest.mark.parametrize("name", ["missing.py", "missing.json"])
def test_a_config_file_that_is_missing_is_refused(tmp_path, name):
    refused(kip("distill", tmp_path / name), name, "`kip configs` lists")


# Bad data


def toy_arrays():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (42, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(42) % 3
    return {"x_train": images[:30], "y_train": labels[:30], "x_test": images[30:], "y_test": labels[30:]}


def set_label(name, place, label):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][place] = label

    return change


def with_nan(arrays):
    arrays["x_train"] = arrays["x_train"] / np.float32(255)
    arrays["x_train"][3, 2, 1, 0] = np.nan


def as_objects(arrays):
    arrays["x_train"] = np.array([*arrays["x_train"], None], dtype=object)[:-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("y_test"), ["lacks y_test", "np.savez"]),
        (with_nan, ["x_train holds NaN", "Clean the images"]),
        (lambda arrays: arrays.update(x_train=arrays["x_train"][..., 0, 0]), ["x_train", "rank", "x[..., None]"]),
        (lambda arrays: arrays.update(y_train=np.eye(3, dtype=int)[arrays["y_train"]]), ["y_train", "y.argmax(1)"]),
        (set_label("y_train", 0, -1), ["y_train", "negative", "0..C-1"]),
        (set_label("y_train", 0, 9), ["y_train", "no image of class 3", "Renumber"]),
        (set_label("y_test", 0, 3), ["y_test", "got 3", "0..2"]),
        (lambda arrays: arrays.update(y_train=arrays["y_train"] / 1.0), ["y_train", "float64", "integers"]),
        (as_objects, ["x_train", "object array", "never unpickled"]),
    ],
)
def test_a_malformed_data_set_is_refused(tmp_path, change, words):
    arrays = toy_arrays()
    change(arrays)
    np.savez(tmp_path / "toy.npz", **arrays)
    config = write_config(tmp_path, data="toy")
    refused(kip("distill", config, "--data-dir", tmp_path, "--out", tmp_path / "run"), "toy.npz", *words)
    assert not (tmp_path / "run").exists()


def test_a_damaged_data_set_is_refused(tmp_path):
    np.savez(tmp_path / "toy.npz", **toy_arrays())
    whole = (tmp_path / "toy.npz").read_bytes()
    (tmp_path / "toy.npz").write_bytes(whole[: len(whole) // 2])
    config = write_config(tmp_path, data="toy")
    refused(kip("distill", config, "--data-dir", tmp_path, "--out", tmp_path / "run"), "toy.npz", "write it again")


@pytest.mark.slow
def test_a_data_set_of_the_users_own_runs(tmp_path):
    np.savez(tmp_path / "toy.npz", **toy_arrays())
    config = write_config(tmp_path, data="toy")
    options = ("--method.target-batch", "12", "--method.steps", "1", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert kip("distill", config, *options).status == 0


# What does not fit the data, the folder, or each other


def test_a_support_larger_than_a_class_is_refused(finished, tmp_path):
    outcome = kip("distill", finished.config, "--method.images-per-class", "200", "--out", tmp_path / "run")
    refused(outcome, "method.images_per_class", "larger than a class", "got 200 images a class", "at most 124")
    assert not (tmp_path / "run").exists()


def test_images_too_small_for_the_poolings_are_refused(tmp_path):
    config = write_config(tmp_path, kernel="kip.Architecture('ConvNet', 4)")
    outcome = kip("distill", config, "--out", tmp_path / "run")
    refused(outcome, "4 poolings of ConvNet4", "8x8 pixels", "at least 16x16", "smaller depth")
    assert not (tmp_path / "run").exists()


def test_autoaugment_on_grey_images_is_refused(finished, tmp_path):
    outcome = kip("distill", finished.config, "--augment.policy", "autoaugment_cifar", "--out", tmp_path / "run")
    refused(outcome, "autoaugment_cifar", "'digits'", "1 channel", "rotate_shift")
    assert not (tmp_path / "run").exists()


def test_label_solve_with_augmentation_is_refused(finished, tmp_path):
    outcome = kip("label-solve", finished.config, "--augment.policy", "rotate_shift", "--out", tmp_path / "run")
    refused(outcome, "augment with the method 'label_solve'", "rotate_shift", "'none'")


def test_label_solve_of_several_kernels_is_refused(tmp_path):
    config = write_config(tmp_path, kernel=f"{FC1}, kip.RBF()")
    refused(
        kip("label-solve", config, "--out", tmp_path / "run"), "method for Label Solve", "expected KIP with one kernel"
    )


def test_no_validation_images_is_refused(finished, tmp_path):
    outcome = kip("distill", finished.config, "--data.validation", "0", "--out", tmp_path / "run")
    refused(outcome, "data.validation", "at least")


def test_more_validation_images_than_train_has_are_refused(finished, tmp_path):
    outcome = kip("distill", finished.config, "--data.validation", "2000", "--out", tmp_path / "run")
    refused(outcome, "validation split is too large", "2000 of 1438", "Hold out fewer")


def test_a_target_batch_larger_than_the_train_set_is_refused(finished, tmp_path):
    outcome = kip("distill", finished.config, "--method.target-batch", "4999", "--out", tmp_path / "run")
    refused(outcome, "method.target_batch", "larger than a class", "got 500 images a class", "at most 124")
    assert not (tmp_path / "run").exists(), "a corrected command must not find another configuration there"


@pytest.mark.parametrize("below", ["", "run"])
def test_an_output_folder_that_cannot_be_written_is_refused(finished, tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    outcome = kip("distill", finished.config, "--out", tmp_path / "file" / below)
    refused(outcome, f"cannot write {tmp_path / 'file' / below}", "name another folder")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("command", [("evaluate",), ("transfer",), ("analyze",), ("pretraining", "--data", "digits")])
def test_results_that_could_not_be_written_are_refused_before_any_work(finished, tmp_path, command):
    (tmp_path / "file").write_text("")
    name, *options = command
    for out, word in ((tmp_path, "folder"), (tmp_path / "file" / "results.json", "writable")):
        outcome = kip(name, finished.run / "distilled.npz", *options, "--out", out)
        refused(outcome, str(tmp_path), word)
        assert outcome.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_of_another_configuration_is_refused_and_left_as_it_is(finished, run_copy):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    outcome = kip("distill", finished.config, "--seed", "3", "--method.learning-rate", "0.5", "--out", run_copy)
    refused(outcome, "another configuration", "seed was 0 and is now 3", "method.learning_rate", "another --out")
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before


def test_a_truncated_checkpoint_is_left_for_the_one_before_it_with_a_warning(finished, run_copy, caplog):
    last = run_copy / "checkpoints" / "000004.npz"
    last.write_bytes(last.read_bytes()[:1000])
    outcome = kip("distill", finished.config, "--out", run_copy, "--json")
    assert outcome.status == 0, outcome.err
    assert "000004.npz" in caplog.text
    assert "The checkpoint before it is used" in caplog.text
    for name in ("test_accuracy", "validation_accuracy", "paper_steps", "steps"):
        assert outcome.last_line[name] == finished.outcome.last_line[name]
    assert (run_copy / "distilled.npz").read_bytes() == (finished.run / "distilled.npz").read_bytes()


# Bad sets and runs


@pytest.mark.parametrize("command", ["evaluate", "show"])
def test_a_set_that_is_missing_is_refused(tmp_path, command):
    refused(kip(command, tmp_path / "none.npz"), "none.npz", "no distilled set", "`kip distill` writes")


@pytest.mark.parametrize("command", ["evaluate", "show"])
@pytest.mark.parametrize("kind", ["empty", "truncated", "flipped", "a .npy", "a text", "another .npz", "a folder"])
def test_a_set_that_is_damaged_or_something_else_is_refused(finished, tmp_path, command, kind):
    path, whole = tmp_path / "set.npz", (finished.run / "distilled.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 255
    if kind == "another .npz":
        np.savez(path, **toy_arrays())
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a .npy":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    else:
        content = {"empty": b"", "truncated": whole[:-200], "flipped": bytes(flipped), "a text": b"import kip\n"}
        path.write_bytes(content[kind])
    refused(kip(command, path), "set.npz", "damaged" if kind == "flipped" else "`kip export RUN`")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("VGG", ["'VGG'", "FC1", "Laplace"]),
        ("FC0", ["depth", "got 0"]),
        ("Myrtle6", ["Myrtle", "got 6", "5, 7 or 10"]),
        ("ConvNet4", ["ConvNet4", "8x8 pixels", "16x16"]),
    ],
)
def test_evaluate_refuses_a_kernel_that_it_cannot_compute(finished, name, words):
    refused(kip("evaluate", finished.run / "distilled.npz", "--kernel", name), *words)


def test_export_refuses_a_folder_that_is_no_run(tmp_path):
    refused(kip("export", tmp_path), f"{tmp_path} is not a run's folder", "no config.json")


def test_export_refuses_a_step_without_checkpoint(finished):
    refused(kip("export", finished.run, "--step", "3"), "step 3", "0, 2, 4")


@pytest.mark.parametrize("command", ["show", "export"])
def test_a_file_that_cannot_be_written_is_refused(finished, tmp_path, command):
    (tmp_path / "file").write_text("in the way")
    source = finished.run if command == "export" else finished.run / "distilled.npz"
    refused(kip(command, source, "--out", tmp_path / "file" / "new.png"), "cannot write", "name another folder")


# Many workers


@pytest.mark.parametrize(
    "options",
    [
        ("--workers", "2"),
        ("--address", "auto"),
        ("--check-share", "1.0"),
        ("--mixed-hardware",),
        ("--wait-for-workers", "9.0"),
    ],
)
def test_options_of_other_executors_are_refused_with_the_local_one(finished, tmp_path, options):
    outcome = kip("distill", finished.config, "--out", tmp_path / "run", *options)
    refused(outcome, f"got {' '.join(options)}", "--executor zmq or --executor ray")


def test_no_time_to_wait_for_workers_is_refused(finished, tmp_path):
    options = ["--executor", "zmq", "--wait-for-workers", "0"]
    refused(kip("distill", finished.config, "--out", tmp_path / "run", *options), "--wait-for-workers", "above 0")


@pytest.mark.parametrize("executor", ["zmq", "ray", "launchpad"])
def test_workers_are_refused_for_a_method_that_computes_no_kernels(tmp_path, executor):
    """They connected, and waited for the whole run."""
    (tmp_path / "dm.py").write_text("import kip\nconfig = kip.Experiment(kip.DM(1))")
    outcome = kip("distill", tmp_path / "dm.py", "--out", tmp_path / "run", "--executor", executor)
    refused(outcome, f"--executor {executor} with the method 'dm'", "computes no kernels", "--executor local")
    assert not (tmp_path / "run").exists()


def test_an_unknown_executor_is_refused(finished, tmp_path):
    refused(kip("distill", finished.config, "--out", tmp_path / "run", "--executor", "slurm"), "slurm")


@pytest.mark.skipif(importlib.util.find_spec("launchpad") is not None, reason="launchpad is installed")
def test_a_missing_launchpad_is_named_with_what_to_do(finished, tmp_path):
    outcome = kip("distill", finished.config, "--out", tmp_path / "run", "--executor", "launchpad")
    refused(outcome, "launchpad is not installed", "kip-distillation[launchpad]", "--executor zmq")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_a_missing_ray_is_named_with_what_to_do(finished, tmp_path):
    outcome = kip("distill", finished.config, "--out", tmp_path / "run", "--executor", "ray")
    refused(outcome, "ray is not installed", "kip-distillation[ray]")


@pytest.mark.parametrize("address", ["nowhere", "host:", "host:99999", ":80"])
def test_a_worker_refuses_an_address_that_is_none(address):
    refused(kip("worker", address), "address", "HOST:PORT")


def test_a_worker_refuses_to_start_without_a_key(monkeypatch, tmp_path):
    monkeypatch.delenv("KIP_WORKER_KEY", raising=False)
    refused(kip("worker", "127.0.0.1:7710"), "key of a worker", "--key-file")
    refused(kip("worker", "127.0.0.1:7710", "--key-file", tmp_path / "none"), "cannot read the key")
    (tmp_path / "text").write_text("no key")
    refused(kip("worker", "127.0.0.1:7710", "--key-file", tmp_path / "text"), "is no key of kip's", "kip worker-key")


def test_a_workers_key_is_made_and_revoked_by_name(tmp_path):
    made = kip("worker-key", "gpu-7", "--run", tmp_path / "run", "--json")
    path = Path(made.last_line["key_file"])
    assert path.stat().st_mode & 0o077 == 0
    assert json.loads(path.read_text())["name"] == "gpu-7"
    revoked = kip("worker-key", "gpu-7", "--run", tmp_path / "run", "--revoke")
    assert revoked.status == 0
    assert not path.exists()
    refused(kip("worker-key", "gpu-7", "--run", tmp_path / "run"), "'gpu-7' was revoked")
    refused(kip("worker-key", "other", "--run", tmp_path / "run", "--revoke"), "no key 'other'")
    refused(kip("worker-key", "../up", "--run", tmp_path / "run"), "name of a worker's key")


def test_a_worker_before_nobody_gives_up_in_bounded_time(tmp_path):
    key = kip("worker-key", "a", "--run", tmp_path, "--json").last_line["key_file"]
    outcome = kip("worker", "127.0.0.1:9", "--key-file", key, "--patience", "0.5")
    refused(outcome, "no server of this key at 127.0.0.1:9", "Check the address")


def test_a_share_beyond_all_tasks_is_refused(finished, tmp_path):
    options = ["--executor", "zmq", "--check-share", "1.5"]
    refused(kip("distill", finished.config, "--out", tmp_path / "run", *options), "--check-share", "0 to 1")


def test_status_of_a_run_in_one_process_tells_its_steps(finished):
    outcome = kip("status", finished.run, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.last_line["step"] == outcome.last_line["steps"] == 4
    assert outcome.last_line["ended"] is True
    assert "computed in one process" in outcome.out


def test_status_says_whether_an_unfinished_run_goes_on(run_copy):
    (run_copy / "result.json").unlink()
    outcome = kip("status", run_copy, "--json")
    assert outcome.last_line["running"] is False
    assert "stopped at step 4 of 4; the same command goes on from there" in outcome.out
    with sole_writer(run_copy):
        outcome = kip("status", run_copy, "--json")
    assert outcome.last_line["running"] is True
    assert "step 4 of 4" in outcome.out
    assert "stopped" not in outcome.out


def test_status_and_report_watch_a_run_to_its_end(run_copy, monkeypatch):
    monkeypatch.setattr("kip.cli.runs.WATCH_SECONDS", 0.01)
    monkeypatch.setattr("kip.report.page.REFRESH", 0.01)
    goes_on = iter([True, True, True, False] * 20)
    monkeypatch.setattr("kip.storage.locks.has_writer", lambda run: next(goes_on))
    outcome = kip("status", run_copy, "--watch")
    assert outcome.status == 0
    assert outcome.out.count("ended after 4 steps") == 5
    goes_on = iter([True, False])
    written = []
    monkeypatch.setattr("kip.report.page.write", lambda runs, out: written.append(runs) or run_copy / "config.json")
    assert kip("report", run_copy, "--watch").status == 0
    assert len(written) == 3


def test_status_of_a_folder_that_is_no_run_is_refused(tmp_path):
    refused(kip("status", tmp_path), "is not a run's folder")


# Interruption


@pytest.mark.slow
def test_ctrl_c_ends_without_a_traceback_and_the_same_command_resumes(finished, tmp_path):
    out = tmp_path / "run"
    metrics = out / "metrics.jsonl"
    # A background job of a shell ignores SIGINT, and so would this child if the tests run in one.
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from kip.cli import main; "
    command = [sys.executable, "-c", start + "sys.exit(main())", "distill", str(finished.config), "--out", str(out)]
    process = subprocess.Popen([*command, "--method.steps", "1000000"], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 12):
            assert process.poll() is None, some(process.stderr).read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "the same command resumes" in err

    reached = max(int(path.stem) for path in (out / "checkpoints").glob("*.npz"))
    assert reached >= 10
    rows = metrics.read_text().splitlines()[: reached + 1]
    outcome = kip("distill", finished.config, "--out", out, "--method.steps", reached + 3, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.last_line["steps"] == reached + 3
    assert f"{reached} of {reached + 3} steps" in outcome.err  # where the progress starts
    resumed = metrics.read_text().splitlines()
    assert resumed[: reached + 1] == rows
    assert [json.loads(row)["step"] for row in resumed] == list(range(reached + 4))


def test_the_version_is_printed():
    outcome = kip("--version")
    assert outcome.out == f"kip {importlib.metadata.version('kip-distillation')}\n"


def test_the_end_of_a_process_looks_at_no_object_again():
    """What is registered first runs last, when the objects of the command are frozen."""
    program = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"
        "from kip import cli\n"
        "cli.main(['--version'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
