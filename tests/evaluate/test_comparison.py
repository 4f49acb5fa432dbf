"""`kip compare`: what is run, trained, kept and found again; the files it writes; the scores of DD-Ranking."""

import csv
import dataclasses
import io
import json
import math
import shutil

import numpy as np
import pytest

from helpers.kinds import untyped
from kip import cli, experiment, sets
from kip.data import Data, centred_one_hot
from kip.errors import ConfigError, KipError
from kip.evaluate import setting
from kip.evaluate.cells import Candidate, Cell, of_dict
from kip.evaluate.comparison import Comparison, compare, varied
from kip.evaluate.dd_ranking import augmentation_robust_score, label_robust_score
from kip.evaluate.earlier import join_tables
from kip.evaluate.table import Entry, by_setting
from kip.experiment import Experiment
from kip.methods.kernel.kip import KIP
from kip.networks import Network
from kip.pictures import comparison as report
from kip.preprocess import Preprocess
from kip.runs import folder, loop
from kip.training import squeeze
from kip.training.batches import Batches
from kip.training.protocols import PROTOCOLS

NETWORK = Network("FC1", width=6)
CONFIG = """
import kip

config = kip.Experiment(
    kip.KIP(images_per_class=IPC, target_batch=200, steps=1, kernels=(kip.Architecture("FC", 1),)),
    preprocess=kip.Preprocess("none"),
)
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "two_a_class.py"
    path.write_text(CONFIG.replace("IPC", "2"))
    return str(path)


@pytest.fixture
def trainings(monkeypatch):
    """The sets that networks were trained on, in turn."""
    names, real = [], setting.judge

    def counted(candidate, network, protocol, **options):
        names.append(f"{candidate.name}, {protocol.name}")
        return real(candidate, network, protocol, **options)

    monkeypatch.setattr(setting, "judge", counted)
    return names


@pytest.mark.slow
def test_sets_of_two_preprocessings_and_their_baselines_stand_in_one_table(run, config, tmp_path, trainings):
    comparison = Comparison(("HL", "OWN"), (NETWORK,), ("random",), epochs=(1,), seeds=2)
    table = compare([str(run), config], comparison, out=tmp_path / "out")
    names = ["tiny", "digits standardize random 1", "two_a_class", "digits none random 2"]
    assert [row["name"] for row in table["sets"]] == names
    assert [row["images_per_class"] for row in table["sets"]] == [1, 1, 2, 2]
    assert [row["preprocess"] for row in table["sets"]] == ["standardize", "standardize", "none", "none"]
    assert [row["seconds"] is None for row in table["sets"]] == [False, True, False, True]
    assert [(cell["candidate"], cell["protocol"]) for cell in table["cells"]] == [
        (name, protocol) for name in names for protocol in ("HL", "OWN")
    ]
    for cell in table["cells"]:
        assert cell["mean"] == pytest.approx(np.mean(cell["accuracies"]))
        assert len(cell["accuracies"]) == 2
    assert [(score["candidate"], score["protocol"]) for score in table["scores"]] == [
        (name, protocol) for name in ("tiny", "two_a_class") for protocol in ("HL", "OWN")
    ]
    assert all(score["label_robust_score"] is None for score in table["scores"])  # there is no teacher
    assert len(trainings) == 8

    rows = list(csv.DictReader(io.StringIO(report.as_csv(table))))
    assert [row["set"] for row in rows] == [cell["candidate"] for cell in table["cells"]]
    assert float(rows[0]["accuracy"]) == table["cells"][0]["mean"]
    text = report.as_markdown(table)
    assert "### digits, none, FC1 width=6" in text
    hard, own = (
        f"{100 * cell['mean']:.2f} ± {100 * cell['deviation']:.2f}{' †' * (cell['above_random'] is False)}"
        for cell in table["cells"][:2]
    )
    judged = 100 * table["sets"][0]["own_test_accuracy"]
    assert f"| tiny | 1 | {hard} | {own} | {judged:.2f} |" in text
    written = report.write(table, tmp_path / "out")
    assert [path.name for path in written] == [f"comparison.{of}" for of in ("csv", "md", "tex", "png", "svg", "pdf")]
    assert written[3].read_bytes().startswith(b"\x89PNG")
    assert len(report.panels(table)) == 4
    fewer = {**table, "cells": [cell for cell in table["cells"] if cell["candidate"] != names[3]]}
    assert len(report.panels(fewer)) == 2  # one set alone would be a point on an empty plane
    random = {cell["candidate"]: cell["mean"] for cell in table["cells"] if cell["protocol"] == "HL"}
    above = [cell["above_random"] for cell in table["cells"] if cell["protocol"] == "HL"]
    assert above == [random["tiny"] > random[names[1]], None, random["two_a_class"] > random[names[3]], None]


SHARED = {
    "HL": ["first", "other classes"],
    "SL": ["first"],
    "SL+KD": ["first"],
    "OWN": ["first", "same classes", "other classes"],
    "EDC": ["first", "other classes"],
}
"""The sets that are trained on under each protocol, of three that have the same images."""


@pytest.mark.parametrize(
    "protocols", [("HL", "SL", "OWN"), pytest.param(("SL+KD", "EDC"), marks=pytest.mark.slow)], ids=" ".join
)
@pytest.mark.slow
def test_sets_of_the_same_images_share_what_their_labels_do_not_change(tmp_path, trainings, protocols):
    data = Data("digits")
    judged = setting.Setting(
        setting.Shared(data, Preprocess("none"), 0, cells=tmp_path, teacher=NETWORK, teacher_epochs=1)
    )
    train = judged.dataset.train
    images, labels = judged.transform.apply(train.images[:12]), centred_one_hot(train.labels[:12], 10)
    sets = {"first": labels, "same classes": 2 * labels, "other classes": np.roll(labels, 1, axis=1)}
    apart = {}
    for name in protocols:
        protocol = dataclasses.replace(PROTOCOLS[name], epochs=1, augment="none")  # views compile long
        cells = [judged.cell(Candidate(of, images, given), NETWORK, protocol) for of, given in sets.items()]
        assert [cell.candidate for cell in cells] == list(sets)
        apart[name] = [line.partition(",")[0] for line in trainings]
        trainings.clear()
    assert apart == {name: SHARED[name] for name in protocols}


@pytest.fixture
def taught(monkeypatch):
    """How networks that label were trained, in turn: the epochs, the augmentation, and the batches of an epoch."""
    seen, real = [], squeeze.train

    def noted(model, recipe, keys, rates, decays, images, *more, **options):
        batches = Batches(len(images), recipe.batch, recipe.drawn)
        whole = sum(map(batches.length, range(batches.of_epoch)))
        if not options["artefact"].path.exists():
            seen.append((recipe.steps / batches.of_epoch, recipe.augment, whole))
        return real(model, dataclasses.replace(recipe, steps=1), keys, rates, decays, images, *more, **options)

    monkeypatch.setattr(squeeze, "train", noted)
    return seen


# A mirror image of a digit is another one.
VIEWS = {
    "HL": [],
    "SL": ["dsa_no_flip"],
    "SL+KD": ["dsa_no_flip"],
    "FKD": ["dsa_no_flip"],
    "SRe2L": ["shift"],
    "RDED": ["none"],
    "G-VBSM": ["resized"],
}


@pytest.mark.parametrize(
    "protocols",
    [("HL", "SL", "SL+KD", "RDED"), pytest.param(("FKD", "SRe2L", "G-VBSM"), marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_a_teacher_has_learned_the_views_that_it_labels(taught, protocols, monkeypatch, tmp_path):
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path))  # where no teacher is known
    judged = setting.Setting(setting.Shared(Data("digits"), Preprocess("none"), 0, teacher=NETWORK, teacher_epochs=3))
    train, augments = judged.dataset.train, {}
    candidate = Candidate("set", judged.transform.apply(train.images[:4]), centred_one_hot(train.labels[:4], 10))
    for name in protocols:
        teachers = judged.teachers_of(candidate, PROTOCOLS[name])
        augments[name] = [teacher.augment for teacher in teachers]
        assert [judged.labeller(teacher).model.network for teacher in teachers] == [NETWORK] * len(teachers)
    assert augments == {name: VIEWS[name] for name in protocols}
    kinds = list(dict.fromkeys(augment for name in protocols for augment in VIEWS[name]))
    assert taught == [(3, augment, len(train.images)) for augment in kinds], "each once, in whole epochs"


RDED_CONFIG = """
import kip

NETWORK = kip.Network("FC1", width=6, norm="batch")
config = kip.Experiment(
    kip.RDED(
        1, network=NETWORK, evaluation_network=kip.Network("FC1", width=6), squeeze=kip.Squeeze(epochs=2, batch=200),
        crops=kip.Crops(pool=4, count=1), test_networks=1, protocol=kip.PROTOCOLS["HL"],
    )
)
"""


@pytest.mark.slow
def test_sets_of_decoupled_methods_are_labelled_by_the_network_that_they_were_made_from(tmp_path, taught):
    path = tmp_path / "crops.py"
    path.write_text(RDED_CONFIG)
    comparison = Comparison(
        ("HL", "SL", "RDED"), (NETWORK,), ("random",), epochs=(1,), seeds=1, teacher=NETWORK, teacher_epochs=3
    )
    table = compare([str(path)], comparison, out=tmp_path / "out")
    squeezed, learned, plain = (
        "FC1 width=6 norm=batch, shift, 2 epochs, squeezed",
        "FC1 width=6, dsa_no_flip, 3 epochs",
        ("FC1 width=6, none, 3 epochs"),
    )
    assert {(cell["candidate"], cell["protocol"]): cell["teachers"] for cell in table["cells"]} == {
        ("crops", "HL"): [],
        ("crops", "SL"): [learned],
        ("crops", "RDED"): [squeezed],
        ("random 1", "HL"): [],
        ("random 1", "SL"): [learned],
        ("random 1", "RDED"): [plain],
    }
    assert [teacher["label"] for teacher in table["teachers"]] == [learned, squeezed, plain]
    assert all(0 <= teacher["test_accuracy"] <= 1 for teacher in table["teachers"])
    assert [kind[:2] for kind in taught] == [(2, "shift"), (3, "dsa_no_flip"), (3, "none")], "squeezed once, in the run"
    assert {(cell["protocol"], cell["batch"], cell["rate"]) for cell in table["cells"]} == {
        ("HL", 256, 0.01),
        ("SL", 256, 1e-3),
        ("RDED", 10, 1e-3),
    }
    text = report.as_markdown(table)
    assert "RDED trains in batches of 10 at 0.001 (crops, random 1)." in text
    assert f"{squeezed}: {100 * table['teachers'][1]['test_accuracy']:.2f} % on test" in text


@pytest.mark.slow
def test_the_rate_that_a_set_lacks_is_given_or_it_is_refused(run, tmp_path, monkeypatch):
    options = {"protocols": ("MTT",), "networks": (NETWORK,), "epochs": (1,), "seeds": 1}
    with pytest.raises(ConfigError, match=r"none of tiny.*--rate"):
        compare([str(run)], Comparison(**options), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    table = compare([str(run)], Comparison(**options, baselines=("random",), rate=0.02), out=tmp_path / "out")
    assert [(cell["candidate"], cell["rate"]) for cell in table["cells"]] == [("tiny", 0.02), ("random 1", 0.02)]
    learned = tmp_path / "learned.npz"
    distilled = sets.load(run / "distilled.npz")
    sets.save(learned, distilled._replace(metadata={**distilled.metadata, "learning_rates": [0.034]}))
    table = compare([str(learned)], Comparison(**options), out=tmp_path / "out")
    assert table["cells"][0]["rate"] == pytest.approx(0.034)
    assert len(list((tmp_path / "out" / "cells").glob("*.json"))) == 3, "another rate is another cell"


@pytest.mark.slow
def test_a_second_start_repeats_no_run_and_no_cell(run, config, tmp_path, trainings, monkeypatch):
    comparison, lines = Comparison(("HL",), (NETWORK,), epochs=(1,), seeds=1), []
    first = compare([str(run), config], comparison, out=tmp_path / "out", progress=lines.append)
    assert len(trainings) == 2
    assert lines[0] == "run 1 of 1: two_a_class"
    assert all(line.startswith("  1 of 1  ") for line in lines[1:])  # a cell of each of two preprocessings
    monkeypatch.setattr(loop, "run", None)
    assert compare([str(run), config], comparison, out=tmp_path / "out") == first
    assert len(trainings) == 2
    damaged = sorted((tmp_path / "out" / "cells").iterdir())[0]
    damaged.write_text('{"mean": 2')
    assert [cell["mean"] for cell in compare([str(run), config], comparison, out=tmp_path / "out")["cells"]] == [
        cell["mean"] for cell in first["cells"]
    ]
    assert len(trainings) == 3
    compare([str(run)], Comparison(("HL",), (NETWORK,), epochs=(1,), seeds=1, seed=1), out=tmp_path / "out")
    assert len(trainings) == 4


@pytest.mark.slow
def test_a_later_comparison_into_the_same_folder_keeps_the_rows(run, config, tmp_path, trainings):
    def command(*names, networks=("FC1 width=6",), epochs="1"):
        out = tmp_path / "out"
        words = ["compare", *names, "--networks", *networks, "--epochs", epochs, "--seeds", "1", "--out", str(out)]
        assert cli.main(words) == 0
        rows = list(csv.DictReader(io.StringIO((out / "comparison.csv").read_text())))
        assert json.loads((out / "comparison.json").read_text())["sets"]
        return [(row["set"], row["network"], row["protocol"]) for row in rows]

    first, second = (run.name, "FC1 width=6", "HL"), ("two_a_class", "FC1 width=6", "HL")
    assert command(str(run)) == [first]
    assert command(config) == [first, second]
    assert command(str(run)) == [second, first]
    assert len(trainings) == 2
    assert command(config, networks=("FC1 width=4",)) == [second, first, ("two_a_class", "FC1 width=4", "HL")]
    wider = command(config, epochs="2")
    assert (run.name, "FC1 width=6", "HL 1") in wider
    assert ("two_a_class", "FC1 width=6", "HL") in wider
    assert len(wider) == 4
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert "HL 1 | HL" in markdown
    assert f"| {run.name} |" in markdown


def table_of(name="a", *, data="digits", method="kip", own=0.5, network="FC1", protocol="HL", epochs=300, mean=0.5):
    about = {"data": data, "preprocess": "none", "method": method, "images_per_class": 1}
    row = {"name": name, **about, "images": 10, "own_test_accuracy": own, "seconds": 1.0, "peak_memory_mib": 1}
    cell = Cell(name, network, protocol, mean, 0.0, [mean], 1, 1.0)._asdict()
    training = {"batch": 256, "rate": 0.01, "teachers": [network]}
    teacher = {
        "data": data,
        "preprocess": "none",
        "label": network,
        "network": network,
        "augment": "dsa",
        "squeezed": False,
        "test_accuracy": mean,
    }
    cells = [{**cell, **about, **training}]
    return {"sets": [row], "cells": cells, "teachers": [teacher], "epochs": {protocol: epochs}}


def cells_of(table):
    return [(cell["candidate"], cell["network"], cell["protocol"], cell["mean"]) for cell in table["cells"]]


def test_rows_of_earlier_tables_are_joined_by_what_they_are():
    new, lines = table_of(), []
    assert join_tables(None, new) == new
    assert join_tables(table_of(mean=0.1), new) == new
    assert cells_of(join_tables(table_of("b", mean=0.1), new)) == [("b", "FC1", "HL", 0.1), ("a", "FC1", "HL", 0.5)]
    other = join_tables(table_of(data="mnist", mean=0.1), new)
    assert cells_of(other)[0] == ("mnist none kip 10: a", "FC1", "HL", 0.1)
    assert [row["name"] for row in other["sets"]] == ["mnist none kip 10: a", "a"]
    assert [teacher["data"] for teacher in other["teachers"]] == ["mnist", "digits"]
    assert cells_of(join_tables(table_of(network="ConvNet", own=0.4), new, lines.append)) == cells_of(new)
    assert lines == ["a was made anew since the earlier rows, which are dropped"]
    longer = join_tables(table_of(epochs=20, mean=0.1), new)
    assert cells_of(longer) == [("a", "FC1", "HL 20", 0.1), ("a", "FC1", "HL", 0.5)]
    assert longer["epochs"] == {"HL 20": 20, "HL": 300}


@pytest.mark.parametrize(
    "damage",
    [
        {"sets": 3},
        {"cells": [{"candidate": "b"}, 3]},
        {"cells": [{**table_of("b")["cells"][0], "candidate": []}]},
        {"epochs": []},
        {"teachers": "x"},
    ],
)
def test_an_earlier_table_that_is_damaged_loses_what_is_no_row(damage):
    lines = []
    kept = join_tables({**table_of("b"), **damage}, table_of(), lines.append)
    strange = damage.get("cells", [])
    assert [line.partition(" ")[0] for line in lines] == [str(len(strange))] * bool(strange)
    assert cells_of(kept)[-1] == ("a", "FC1", "HL", 0.5)
    assert all(cell["candidate"] in {row["name"] for row in kept["sets"]} for cell in kept["cells"])


def test_a_run_from_before_a_field_existed_is_the_run_of_its_default(run, tmp_path):
    copy = tmp_path / "older"
    shutil.copytree(run, copy)
    wanted, about = experiment.load(str(copy / "config.json")), json.loads((copy / "config.json").read_text())
    assert folder.is_finished(copy, wanted)
    assert about["method"].pop("reduction") == "mean"
    (copy / "config.json").write_text(json.dumps(about))
    assert folder.is_finished(copy, wanted)
    for name, other in (("reduction", "sum"), ("no_such_field", 1)):
        (copy / "config.json").write_text(json.dumps({**about, "method": {**about["method"], name: other}}))
        assert not folder.is_finished(copy, wanted)
    (copy / "config.json").write_text("{")
    assert not folder.is_finished(copy, wanted)


def test_a_set_from_before_a_field_existed_is_of_the_same_data(run):
    new, old = (sets.load(run / "distilled.npz") for _ in range(2))
    for name in ("background", "depth", "recursive"):
        del old.metadata["experiment"]["data"][name]
    assert len(by_setting([Entry("new", new, None, None), Entry("old", old, None, None)])) == 1


def test_one_set_twice_is_refused_and_two_of_one_name_are_told_apart(run, tmp_path):
    comparison = Comparison(("HL",), (NETWORK,), epochs=(1,), seeds=1)
    with pytest.raises(ConfigError, match="tiny more than once"):
        compare([str(run), str(run)], comparison, out=tmp_path / "out")
    other = tmp_path / "tiny.npz"
    other.write_bytes((run / "distilled.npz").read_bytes())
    table = compare([str(run), str(other)], comparison, out=tmp_path / "out")
    assert [row["name"] for row in table["sets"]] == [str(run), str(other)]
    (panel,) = report.panels(table)  # of one method and size: two lines, and not two dots of one
    assert {line.name: len(line.dots) for line in panel.lines} == {"kip": 1, str(other): 1}


def test_runs_of_sets_that_are_there_already_are_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=r"--runs.*a configuration among the sets"):
        compare([str(run)], Comparison(runs=2), out=tmp_path / "out")


def test_faults_are_found_before_anything_is_run(run, config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "run", None)
    for names, vary, words in (
        ([config, str(tmp_path / "none.npz")], [], "none.npz"),
        ([config, "no_such_config"], [], "no config 'no_such_config'"),
        ([str(run)], ["seed=0,1"], "a configuration among the sets"),
        ([config], ["sed=1"], "a field of the configuration"),
        ([], [], "at least one set"),
    ):
        with pytest.raises(KipError, match=words):
            compare(names, Comparison(("HL",), (NETWORK,)), out=tmp_path / "out", vary=vary)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_chosen_images_are_called_by_their_rule(tmp_path):
    path = tmp_path / "chosen.py"
    path.write_text(
        "import kip\n"
        "network = kip.Network('FC1', width=4)\n"
        "config = kip.Experiment(kip.Selection(rule=kip.rules.Herding(), network=network, test_networks=1))\n"
    )
    table = compare([str(path)], Comparison(("HL",), (NETWORK,), epochs=(1,), seeds=1), out=tmp_path / "out")
    assert [row["method"] for row in table["sets"]] == ["herding"]


def test_configurations_vary_in_all_combinations():
    given = Experiment(method=KIP(images_per_class=1, steps=1))
    made = varied("mine", given, ["method.learning_rate=0.5,1", "seed=0,3", "method.kernels.0=1"][:2])
    assert [name for name, _ in made] == [
        f"mine method.learning_rate={rate} seed={seed}" for rate in ("0.5", "1") for seed in (0, 3)
    ]
    assert [(untyped(changed.method).learning_rate, changed.seed) for _, changed in made] == [
        (0.5, 0),
        (0.5, 3),
        (1, 0),
        (1, 3),
    ]
    assert varied("mine", given, []) == [("mine", given)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed", "FIELD=VALUE"),
        ("method.rate=1", "a field of the configuration"),
        ("sed=1", "a field of the configuration"),
        ("seed=x", "seed"),
    ],
)
def test_what_cannot_vary_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        varied("mine", Experiment(method=KIP(images_per_class=1, steps=1)), [text])


def test_the_scores_of_dd_ranking_are_those_of_its_formulas():
    alpha = 0.5 * 0.2 - 0.5 * 0.3
    assert label_robust_score(0.3, 0.2) == pytest.approx((math.exp(alpha) - 1 / math.e) / (math.e - 1 / math.e))
    assert label_robust_score(0, 0) == pytest.approx(0.27, abs=0.005)
    beta = 0.25 * 0.4 + 0.75 * 0.1
    assert augmentation_robust_score(0.4, 0.1, weight=0.25) == pytest.approx(
        (math.exp(beta) - 1 / math.e) / (math.e - 1 / math.e)
    )
    assert label_robust_score(1, -1) == pytest.approx(0)
    assert augmentation_robust_score(1, 1) == pytest.approx(1)


def test_several_numbers_of_epochs_are_columns_of_their_own():
    chosen = Comparison(("HL", "SL"), epochs=(3, 5)).chosen_protocols
    assert [(protocol.name, protocol.epochs) for protocol in chosen] == [
        ("HL 3", 3),
        ("HL 5", 5),
        ("SL 3", 3),
        ("SL 5", 5),
    ]
    assert [(p.name, p.epochs) for p in Comparison(("HL",), epochs=(3,)).chosen_protocols] == [("HL", 3)]
    with pytest.raises(ConfigError, match="each number once"):
        Comparison(("HL",), epochs=(3, 3))


@pytest.mark.parametrize("change", [{"accuracies": []}, {"mean": float("nan")}, {"accuracies": ["x"]}, {"more": 1}])
def test_a_cell_from_a_file_is_read_as_data(change):
    cell = Cell("a", "FC1", "HL", 0.5, 0.1, [0.4, 0.6], 100, 1.0)
    assert of_dict(cell._asdict()) == cell
    assert of_dict({**cell._asdict(), **change}) is None


def without_cost(summary):
    """Return a command's results without its own seconds and memory."""
    return {name: part for name, part in summary.items() if name != "cost"}


@pytest.mark.slow
def test_the_command_trains_a_teacher_once_and_scores_with_it(run, tmp_path, capsys):
    options = "--protocols HL HL-plain SL --baselines random k_centers --epochs 2 --seeds 1 --teacher-epochs 20"
    networks = ["--networks", "FC1 width=32", "LeNet", "--teacher", "FC1 width=32"]
    out = tmp_path / "table"
    arguments = ["compare", str(run / "distilled.npz"), *options.split(), *networks, "--out", str(out), "--json"]
    assert cli.main(arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(summary["cells"]) == 3 * 3 * 2
    assert {cell["candidate"] for cell in summary["cells"]} == {"tiny", "random 1", "k_centers 1"}
    assert len(summary["average"]) == 3 * 3
    assert [teacher["network"] for teacher in summary["teachers"]] == ["FC1 width=32"]
    assert summary["teachers"][0]["validation_accuracy"] > 0.6
    assert summary["epochs"] == {"HL": 2, "HL-plain": 2, "SL": 2}
    assert json.loads((out / "comparison.json").read_text()) == summary
    scored = [score for score in summary["scores"] if score["network"] == "FC1 width=32"]
    assert all(0 < score["label_robust_score"] < 1 for score in scored)
    assert all(0 < score["augmentation_robust_score"] < 1 for score in scored)
    assert [score["hard_label_recovery"] for score in summary["scores"] if score["network"] == "LeNet"] == [None] * 6
    assert cli.main(arguments) == 0
    assert without_cost(json.loads(capsys.readouterr().out.splitlines()[-1])) == without_cost(summary)
    assert cli.main(["compare", str(run), "--protocols", "ZL"]) == 2
    assert "HL, HL-plain, SL, SL+KD" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_of_other_seeds_tell_their_spread_from_that_of_networks(config, tmp_path, trainings):
    comparison = Comparison(("HL",), (NETWORK,), ("random",), epochs=(1,), seeds=2, runs=2)
    table = compare([config], comparison, out=tmp_path / "out")
    names = ["two_a_class seed=0", "two_a_class seed=1"]
    assert [(row["name"], row["run_of"]) for row in table["sets"][:2]] == [(name, "two_a_class") for name in names]
    cells = [cell for cell in table["cells"] if cell["candidate"] in names]
    (row,) = table["runs"]
    assert (row["name"], row["runs"], row["candidates"]) == ("two_a_class", 2, names)
    means = [cell["mean"] for cell in cells]
    assert row["mean"] == pytest.approx(np.mean(means))
    assert row["deviation_of_runs"] == pytest.approx(abs(means[0] - means[1]) / np.sqrt(2))
    assert row["deviation_of_networks"] == pytest.approx(np.hypot(*(cell["deviation"] for cell in cells)) / np.sqrt(2))
    assert f"| two_a_class | FC1 width=6 | HL | 2 | {100 * row['mean']:.2f} |" in report.as_markdown(table)
    (panel,) = report.panels(table)
    assert {line.name for line in panel.lines} == {cells[0]["method"], "random"}
    assert compare([config], comparison, out=tmp_path / "out") == table
    with pytest.raises(ConfigError, match="--vary of the seed"):
        compare([config], comparison, vary=["seed=1,2"], out=tmp_path / "out")
