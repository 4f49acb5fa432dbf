"""Squeezed networks: killed and resumed to the same bits, and found again by a judge that labels a set with them."""

import dataclasses

import jax
import numpy as np
import pytest

from kip.errors import ConfigError
from kip.judges import Question, Students, Tools
from kip.networks.model import Network
from kip.storage.artefacts import Artefact, Store
from kip.training.protocols import PROTOCOLS
from kip.training.squeeze import Squeeze, squeeze

NETWORK, STUDENT = Network("FC1", width=8, norm="batch"), Network("FC1", width=6)
SQUEEZE = Squeeze(epochs=3, batch=200)


def squeezed(problem, store):
    return squeeze(SQUEEZE, NETWORK, problem.inputs, problem.labels, 10, seed=0, mirror_keeps_class=False, store=store)[
        1
    ]


class Killed(BaseException):
    """Stands for a kill."""


def test_killed_during_squeezing_it_goes_on_and_the_bits_are_the_same(problem, store, tmp_path, monkeypatch):
    saves, real = [], Artefact.save

    def dying(self, tree):
        real(self, tree)
        saves.append(int(tree.step))
        if len(saves) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Artefact, "save", dying)
        with pytest.raises(Killed):
            squeezed(problem, store)
    assert saves[1] == 2 * saves[0], "it is saved after every epoch"
    resumed = squeezed(problem, store)
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "other"))
    whole = squeezed(problem, Store(show_progress=False))
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def judge(**changes):
    protocol = dataclasses.replace(PROTOCOLS["SRe2L"], epochs=4, **changes)
    return Students(STUDENT, protocol, test_networks=2, teachers=(NETWORK,), squeeze=SQUEEZE)


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["teacher on views", "stored views"])
def test_a_judge_labels_with_the_networks_that_were_squeezed(problem, store, labels, monkeypatch):
    made = squeezed(problem, store)
    state = problem.natural_support(2)
    tools = Tools(problem.blocks, (problem.inputs, problem.labels), 0, False)
    asked = judge(labels=labels)
    question = Question(problem.inputs[:50], problem.labels[:50], "test")
    first = asked.are_right(state.support, question, tools)
    assert first.shape == (2, 50)
    np.testing.assert_array_equal(asked.are_right(state.support, question, tools), first)
    monkeypatch.setattr(
        "kip.training.loop.compiled_update", lambda *arguments: lambda *state: pytest.fail("it was trained again")
    )
    (labeller,) = asked._labellers(state.support, tools)
    jax.tree.map(np.testing.assert_array_equal, labeller.variables, made)


def test_a_protocol_that_asks_for_a_teacher_needs_one():
    with pytest.raises(ConfigError, match="no teacher"):
        Students(STUDENT, PROTOCOLS["SRe2L"])
    Students(STUDENT, PROTOCOLS["HL"])
