"""What judging may cost while a run goes on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from kip import data
from kip.experiment import Experiment, load, names
from kip.judges import Students, TrainedNetworks
from kip.methods.features.frepo import FRePo
from kip.methods.kernel.kip import KIP
from kip.methods.matching.datm import DATM
from kip.methods.matching.dm import DM
from kip.methods.matching.mtt import MTT
from kip.methods.selection.selection import Selection
from kip.networks import Network
from kip.runs import forecast, loop
from kip.runs.judging import judging
from kip.training.protocols import PROTOCOLS

MAIN_TABLE = [name for name in names() if name.startswith("main_table:")]


def during(method: Any, per_class: int, *, share: float | None = 0.2, classes: int = 10) -> Any:
    experiment = Experiment(method, judging_share=share)
    return judging(experiment, size=per_class * classes, num_classes=classes)


@pytest.mark.parametrize("per_class", [1, 10, 25])
def test_dm_is_judged_for_a_fifth_of_its_steps_at_most(per_class):
    """A step passes 256 natural images of each class forward, and the learned ones forward and back.

    The judging before the first step counts too: of one interval between checkpoints, two judgings take the fifth.
    """
    method = DM(per_class)
    judges = during(method, per_class)
    of_steps = 50 * 10 * (256 + 3 * per_class)
    of_judge = 3 * judges.during.trained_images("validation", 10 * per_class)
    assert 2 * of_judge <= of_steps / 5
    assert judges.whole == method.judge
    assert judges.during.protocol.epochs == min(1000, int(of_steps / 10 / (30 * per_class)))


def test_networks_become_fewer_before_their_training_becomes_shorter_than_its_least():
    judges = during(DM(10, validation_networks=8), 10)
    assert judges.during.validation_networks == 2  # 47 epochs of work
    assert judges.during.protocol.epochs == 23
    assert judges.during.test_networks == judges.whole.test_networks == 5


def test_the_least_training_stays_where_a_step_is_cheap():
    judges = during(DM(50), 50)  # the work of 13 epochs
    assert (judges.during.protocol.epochs, judges.during.validation_networks) == (20, 1)
    judges = during(DM(50, real_batch=1), 50)
    assert (judges.during.protocol.epochs, judges.during.validation_networks) == (20, 1)


def test_updates_are_cut_where_a_judge_counts_them():
    method = FRePo(10)
    judges = during(method, 10)
    assert isinstance(judges.during, TrainedNetworks)
    assert judges.during.steps == int(0.1 * 50 * 3 * (1024 + 100) / 300)
    assert judges.whole.steps == 1000


def test_a_choice_is_judged_by_the_shortest_training_until_its_end():
    """It has one step: nothing hangs on the judging at step 0, which is what was there before the choice."""
    judges = during(Selection(1), 1)
    assert (judges.during.protocol.epochs, judges.during.validation_networks) == (20, 1)
    assert judges.whole == Selection(1).judge


@pytest.mark.parametrize("name", MAIN_TABLE)
def test_rows_of_the_main_table_are_judged_for_a_fifth_of_their_steps_at_most(name):
    """Beside the shortest trainings, where the steps are fewer than they would cost."""
    of_row = load(name)
    method, size = of_row.method, 10 * int(name.rpartition("ipc")[2])
    judges = judging(of_row, size=size, num_classes=10)
    checkpoints = 1 + -(-method.steps // of_row.checkpoint_every)
    cost = 3 * checkpoints * judges.during.trained_images("validation", size)
    of_steps = method.steps * method.step_images(10)
    shortest = judges.whole.within(0, size)
    assert cost <= of_steps / 5 or judges.during == shortest
    assert judges.whole == method.judge


@pytest.mark.parametrize("method", [KIP(1), MTT(1, student_steps=5000)])
def test_cheap_judges_and_long_steps_keep_the_whole_protocol(method):
    judges = during(method, 1)
    assert judges.during == judges.whole
    assert not judges.is_brief


def test_a_step_of_datm_costs_what_one_of_mtt_does():
    """It inherits nothing from it, and says so itself."""
    assert DATM(1, student_steps=50).step_images(10) == MTT(1, student_steps=50).step_images(10) == 6 * 50 * 10


def test_without_a_share_every_checkpoint_is_judged_by_the_whole_protocol():
    assert not during(DM(10), 10, share=None).is_brief


def test_the_share_is_part_of_what_a_run_is_where_networks_are_trained():
    """Checkpoints that were judged by the whole protocol and by less of it are not compared."""
    assert Experiment(DM(10)).identity()["judging_share"] == 0.2
    assert "judging_share" not in Experiment(KIP(1)).identity()


@pytest.mark.slow
def test_a_run_ends_with_the_whole_protocol(tmp_path, monkeypatch):
    asked = []

    def are_right(self, support, question, tools):
        asked.append((question.part, self.protocol.epochs))
        return np.arange(len(question.classes))[None] % 10 < (9 if self.protocol.epochs == 60 else 5)

    monkeypatch.setattr(Students, "are_right", are_right)
    protocol = dataclasses.replace(PROTOCOLS["HL"], epochs=60)
    method = DM(1, network=Network("ConvNet-D1", width=4), real_batch=2, steps=6, protocol=protocol)
    result = loop.run(
        Experiment(method, data.Data("digits"), checkpoint_every=3), tmp_path / "run", show_progress=False
    )
    assert asked == [("validation", 20)] * 3 + [("test", 60)] * 2 + [("validation", 60)]
    assert result.validation_accuracy == pytest.approx(0.9, abs=0.01)


def test_the_costs_of_a_long_run_name_its_judging(capsys):
    forecast.tell_costs(6.0, 19_950, 50, 40.0, 900.0)
    (line,) = capsys.readouterr().err.splitlines()
    assert "50 steps take about 5 minutes and the judging of their checkpoint about 40.0 seconds" in line
    assert (
        "the 19950 steps that are left take about 38 hours in all, and about 15 minutes of judging at the end" in line
    )
    forecast.tell_costs(0.01, 1000, 50, 0.5, 2.0)
    assert capsys.readouterr().err == ""
