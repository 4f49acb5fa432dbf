"""Networks of the user's own: judged with like those of the table, and run only where code or the user names them."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip import config
from kip.cli import options
from kip.errors import ConfigError
from kip.experiment import Experiment
from kip.judges import Students
from kip.judges.judge import Question, Support, Tools
from kip.kernels import permission
from kip.methods.features.rcig import RCIG
from kip.methods.matching.dm import DM
from kip.networks import Network, network
from kip.runs import loop
from kip.training.protocols import PROTOCOLS

NET = """
import flax.linen as nn

class Net(nn.Module):
    num_outputs: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.BatchNorm(use_running_average=not train)(x)
        features = x.reshape(len(x), -1)
        return nn.Dense(self.num_outputs)(features), features

class LogitsAlone(Net):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.num_outputs)(x.reshape(len(x), -1))

def a_number(num_outputs):
    return num_outputs
"""

DENSE = """
class Dense(nn.Module):
    num_outputs: int

    @nn.compact
    def __call__(self, x, train):
        features = nn.softplus(nn.Dense(8)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_outputs)(features), features
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_net.py"
    path.write_text(NET)
    return path


def test_a_network_of_the_users_own_is_initialised_trained_and_applied(file, rng):
    model = network(f"{file}:Net", 3)
    variables = model.init(jax.random.key(0), (6, 6, 1))
    images = jnp.asarray(rng.normal(2, 3, size=(5, 6, 6, 1)), jnp.float32)
    logits, features, moved = model.apply(variables, images, train=True)
    assert logits.shape == (5, 3)
    assert features.shape == (5, 4 * 36)
    before, after = (jax.tree.leaves(each["batch_stats"]) for each in (variables, moved))
    assert not any(np.allclose(a, b) for a, b in zip(before, after, strict=True))
    assert model.network.label == f"{file}:Net"


@pytest.mark.slow
def test_it_judges_a_set(file):
    """Two classes that one pixel tells apart."""
    labels = np.arange(40) % 2
    images = np.zeros((40, 4, 4, 1), np.float32)
    images[:, 0, 0, 0] = 2.0 * labels - 1
    protocol = dataclasses.replace(PROTOCOLS["HL-plain"], epochs=60, batch=20, rate=0.1)
    judge = Students(Network(f"{file}:Net"), protocol, validation_networks=2)
    support = Support(images[:20], np.eye(2, dtype=np.float32)[labels[:20]])
    question = Question(images[20:], labels[20:], "validation")
    tools = Tools(None, (images, labels), 0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(judge.accuracies(support, question, tools), [1.0, 1.0])


def test_the_command_line_names_it(file):
    def judge(*, networks: tuple[Network, ...]) -> dict:
        return {"networks": networks}

    (given,) = options.call(judge, ["--networks", f"{file}:Net"], prog="kip")["networks"]
    assert given == Network(f"{file}:Net")
    assert network(given, 2).init(jax.random.key(0), (4, 4, 1))


def test_another_file_is_another_network(file):
    before = Network(f"{file}:Net")
    file.write_text(NET.replace("nn.Conv(4", "nn.Conv(8"))
    after = Network(f"{file}:Net")
    assert before != after
    assert config.to_dict(before) != config.to_dict(after)
    assert network(after, 2).init(jax.random.key(0), (4, 4, 1))
    with pytest.raises(ConfigError, match="a file that has changed"):
        network(before, 2).init(jax.random.key(0), (4, 4, 1))


def test_a_network_of_the_table_is_written_as_before():
    assert "source" not in config.to_dict(Network("FC1"))
    with pytest.raises(ConfigError, match="source"):
        Network("FC1", source="ab")


def test_what_only_data_names_is_not_run(file):
    """In a process of its own, where nothing has permitted it."""
    text = json.dumps(config.to_dict(Network(f"{file}:Net")))
    file.write_text(NET + "\nprint('it was run')\n")
    program = (
        "import sys, jax\n"
        "from kip import config\n"
        "from kip.networks import Network, network\n"
        "named = config.from_json(Network, sys.argv[1], source='a set')\n"
        "network(named, 2).init(jax.random.key(0), (4, 4, 1))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, text], capture_output=True, text=True)
    assert "it was run" not in done.stdout
    assert "ConfigError: the network is a function of someone's own" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_net.py:Missing", "nothing of that name"),
        ("my_net.py:LogitsAlone", "End its __call__ with"),
        ("my_net.py:a_number", "expected a flax.linen.Module"),
    ],
)
def test_what_is_no_such_network_is_refused_with_the_remedy(file, name, message, monkeypatch):
    monkeypatch.chdir(file.parent)
    with pytest.raises(ConfigError, match=message):
        network(name, 2).init(jax.random.key(0), (4, 4, 1))


def test_a_missing_file_and_options_of_the_table_are_refused(file):
    with pytest.raises(ConfigError, match="No such file"):
        Network("missing.py:Net")
    with pytest.raises(ConfigError, match="has its sizes in its file"):
        Network(f"{file}:Net", width=3)


def test_a_method_that_must_know_the_normalisation_refuses_it(file):
    permission.permit(f"{file}:Net")
    with pytest.raises(ConfigError, match="judge sets"):
        assert DM(network=Network(f"{file}:Net")).network.batch_normalised


@pytest.mark.parametrize("network", ["Net", "Dense"])
def test_a_method_that_solves_the_last_layer_refuses_it_before_it_learns(file, network, tmp_path):
    """It was a KeyError on the name of the last layer."""
    file.write_text(NET + DENSE)
    method = RCIG(network=Network(f"{file}:{network}"), target_batch=60, steps=1)
    with pytest.raises(ConfigError, match=r"the network of rcig; got .*my_net.py.*may judge the set"):
        loop.run(Experiment(method), tmp_path / "run", show_progress=False)
    judged = RCIG(evaluation_network=Network(f"{file}:{network}"))
    assert judged.judge.network.label.endswith(network)
