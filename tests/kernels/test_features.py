"""The kernel of an encoder's features, `kip.Features`: products of features that are computed once an image."""

from __future__ import annotations

import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kip
from helpers.interpreter import printed
from kip import cli, config
from kip.blocks import Blocks, KernelBlocks
from kip.errors import ConfigError, NonFiniteError, ShapeError
from kip.kernels import kernel_function, permission
from kip.precision import float64
from kip.runs.setup import check_spreads
from kip.workers.worker import Worker

ENCODER = """
    import jax.numpy as jnp
    import numpy as np

    WEIGHTS = np.random.default_rng(0).normal(size=(8, 5)) / 3

    def features(images):
        return jnp.tanh(images.reshape(len(images), -1)[:, :8] @ WEIGHTS)

    def images_back(images):
        return images

    def whole_numbers(images):
        return jnp.ones((len(images), 2), int)

    def broken(images):
        return features(images) / 0
"""
WEIGHTS = np.random.default_rng(0).normal(size=(8, 5)) / 3


def images(rng, count):
    return rng.normal(size=(count, 2, 2, 2))


def phi(x):
    """The encoder in NumPy."""
    return np.tanh(x.reshape(len(x), -1) @ WEIGHTS)


@pytest.fixture
def file(tmp_path):
    """The path of a file with encoders in it."""
    path = tmp_path / "my_encoder.py"
    path.write_text(textwrap.dedent(ENCODER))
    return path


@pytest.fixture
def blocks():
    with KernelBlocks(Blocks(dtype="float64")) as made:
        yield made


@pytest.mark.parametrize("batch", [3, 256])
def test_the_kernel_is_the_product_of_features(file, rng, blocks, batch):
    x, z = images(rng, 7), images(rng, 4)
    kernel = kip.Features(f"{file}:features", batch=batch)
    k_ss, k_ts = blocks.forward(kernel, x, z)
    np.testing.assert_allclose(k_ss, phi(x) @ phi(x).T / 5, rtol=1e-12)
    np.testing.assert_allclose(k_ts, phi(z) @ phi(x).T / 5, rtol=1e-12)
    np.testing.assert_array_equal(k_ss, k_ss.T)
    np.testing.assert_allclose(blocks.matrix(kernel, z, x), k_ts, rtol=1e-12)
    np.testing.assert_allclose(blocks.matrix(kernel, x), k_ss, rtol=1e-12)
    rows = {where.start: block for where, block in blocks.rows(kernel, x, z)}
    np.testing.assert_array_equal(rows[0], k_ts)
    np.testing.assert_allclose(kip.kernel(z, x, kernel=kernel, show_progress=False), k_ts, rtol=1e-12)
    with float64():
        np.testing.assert_allclose(jax.jit(lambda x: kip.kernel(x, kernel=kernel))(jnp.asarray(x)), k_ss, rtol=1e-12)
        np.testing.assert_allclose(kernel_function(kernel)(jnp.asarray(z), jnp.asarray(x)), k_ts, rtol=1e-12)


@pytest.mark.parametrize("batch", [2, 256])
def test_the_gradient_is_that_of_finite_differences(file, rng, blocks, batch):
    x, z = images(rng, 5), images(rng, 3)
    bar_ss, bar_ts, direction = rng.normal(size=(5, 5)), rng.normal(size=(3, 5)), images(rng, 5)
    kernel = kip.Features(f"{file}:features", batch=batch)

    def loss(x):
        return np.sum(bar_ss * (phi(x) @ phi(x).T)) / 5 + np.sum(bar_ts * (phi(z) @ phi(x).T)) / 5

    blocks.forward(kernel, x, z)
    gradient = blocks.backward(bar_ss, bar_ts)
    expected = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
    assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-7)
    with float64():
        in_a_program = jax.grad(lambda x: jnp.sum(jnp.asarray(bar_ss) * kip.kernel(x, kernel=kernel)))(jnp.asarray(x))
    blocks.forward(kernel, x, z[:0])
    np.testing.assert_allclose(in_a_program, blocks.backward(bar_ss, bar_ts[:0]), rtol=1e-9)


def test_features_are_computed_once_an_image(rng):
    encoded = []

    def counting(batch):
        jax.debug.callback(lambda: encoded.append(len(batch)))
        return batch.reshape(len(batch), -1)

    x, z = (images(rng, count).astype(np.float32) for count in (6, 10))
    kernel = kip.Features(counting, batch=4)  # type: ignore[arg-type]
    with KernelBlocks() as blocks:
        blocks.forward(kernel, x, z)
        jax.effects_barrier()
        assert encoded == [3, 3, 4, 4, 4], "6 images in even batches, and 10, the last filled up"
        encoded.clear()
        blocks.matrix(kernel, x)
        jax.effects_barrier()
        assert encoded == [3, 3]


def test_a_kernel_of_few_features_is_solved_in_float32_too(rng):
    """30 images have 8 features: in float32 the smallest eigenvalues are rounding, of the size of the ridge."""
    x = images(rng, 30).astype(np.float32)
    kernel = kip.Features(lambda batch: batch.reshape(len(batch), -1))  # type: ignore[arg-type]
    with KernelBlocks() as blocks:
        k_ss = blocks.forward(kernel, x, x[:0]).k_ss
    assert k_ss.dtype == np.float64
    assert np.isfinite(kip.krr.fit(k_ss, np.ones((30, 1)), kip.Ridge(1e-9))).all()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("absent", ConfigError, "nothing of that name"),
        ("images_back", ShapeError, "Flatten what it returns"),
        ("whole_numbers", ShapeError, "floats"),
        ("broken", NonFiniteError, "features of the encoder"),
    ],
)
def test_what_is_no_encoder_is_refused_with_the_remedy(file, rng, blocks, name, error, message):
    with pytest.raises(error, match=message):
        blocks.forward(kip.Features(f"{file}:{name}"), images(rng, 2), images(rng, 2))


def test_a_missing_file_a_bare_name_and_ntk_are_refused(file, rng):
    with pytest.raises(ConfigError, match="No such file"):
        kip.Features("missing.py:features")
    with pytest.raises(ConfigError, match=r"'file.py:name'"):
        kip.Features("features")
    with pytest.raises(ConfigError, match="no infinite network's"):
        kip.kernel(images(rng, 2), kernel=kip.Features(f"{file}:features"), get="ntk")


def test_another_file_is_another_kernel(file, rng, blocks):
    before = kip.Features(f"{file}:features")
    file.write_text(textwrap.dedent(ENCODER).replace("/ 3", "/ 2"))
    after = kip.Features(f"{file}:features")
    assert before != after
    blocks.forward(after, images(rng, 2), images(rng, 2))
    with pytest.raises(ConfigError, match="a file that has changed"):
        blocks.forward(before, images(rng, 2), images(rng, 2))


def test_what_only_data_names_is_not_run(file, monkeypatch):
    monkeypatch.setattr(permission, "_permitted", set())
    monkeypatch.setattr(permission, "_only_in_data", set())
    marker = file.parent / "it ran"
    file.write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n" + textwrap.dedent(ENCODER))
    text = json.dumps({"function": f"{file}:features"})
    kernel = config.from_json(kip.Features, text, source="a set")
    with pytest.raises(ConfigError, match=r"the encoder is a function of someone's own.*--stax"):
        kernel_function(kernel)
    assert not marker.exists()
    kip.permit_stax(f"{file}:features")
    kernel_function(kernel)
    assert marker.exists()


def test_a_worker_runs_no_encoder_that_it_was_not_started_with(file):
    kernel = config.to_dict(kip.Features(f"{file}:features"))
    with pytest.raises(Exception, match="a function that this worker may not load"):
        Worker(use_data=False)._kernel(kernel)


def test_workers_are_not_started_for_features(file):
    experiment = kip.Experiment(kip.KIP(kernels=(kip.Features(f"{file}:features"),)))
    with pytest.raises(ConfigError, match=r"the kernel features; got the kernel of an encoder.*once an image"):
        check_spreads(experiment, "zmq")
    check_spreads(kip.Experiment(kip.KIP(kernels=(kip.RBF(), kip.Features(f"{file}:features")))), "zmq")


def test_a_function_of_python_has_a_name_of_this_process_or_of_its_module():
    assert kip.Features(textwrap.dedent).function == "textwrap:dedent"  # type: ignore[arg-type]

    def mine(batch):
        return batch.reshape(len(batch), -1)

    kernel = kip.Features(mine)  # type: ignore[arg-type]
    assert kernel.function.startswith("python:mine-")
    assert kernel == kip.Features(mine) != kip.Features(lambda batch: batch)  # type: ignore[arg-type]
    text = json.dumps(config.to_dict(kernel))
    assert config.from_json(kip.Features, text, source="a set") == kernel
    output = printed(
        """
        import sys
        import numpy as np
        import kip
        from kip import config
        kernel = config.from_json(kip.Features, sys.argv[1], source="a set")
        kip.permit_stax(kernel.function)
        try:
            kip.kernel(np.ones((2, 2, 2, 1)), kernel=kernel)
        except kip.ConfigError as error:
            print(error)
        """,
        text,
    )
    assert "a Python process that has ended" in output


DIGITS = """
    import jax.numpy as jnp
    import numpy as np

    generator = np.random.default_rng(0)
    FIRST = generator.normal(size=(64, 48)).astype(np.float32) / 8
    SECOND = generator.normal(size=(48, 40)).astype(np.float32) / 7

    def features(images):
        return jnp.maximum(jnp.maximum(images.reshape(len(images), -1) @ FIRST, 0) @ SECOND, 0)
"""


@pytest.fixture
def digits_encoder(tmp_path, monkeypatch):
    """The name of a small encoder of digits, in a file of the current folder."""
    (tmp_path / "my_encoder.py").write_text(textwrap.dedent(DIGITS))
    monkeypatch.chdir(tmp_path)
    return "my_encoder.py:features"


def test_kip_and_label_solve_learn_under_an_encoder_by_the_command_line(digits_encoder, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "import kip\n"
        f"kernels = (kip.Features({digits_encoder!r}),)\n"
        "method = kip.KIP(1, kernels=kernels, steps=8, target_batch=400, learning_rate=0.1)\n"
        "config = kip.Experiment(method, checkpoint_every=8)\n"
    )
    assert cli.main(["distill", "mine.py", "--method.kernels.0.batch", "100", "--out", "run"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["method"]["kernels"][0]
    assert stored["function"] == digits_encoder
    assert stored["batch"] == 100
    assert len(stored["source"]) == 64
    assert cli.main(["label-solve", "mine.py", "--out", "solved"]) == 0
    result = json.loads((tmp_path / "solved" / "result.json").read_text())
    assert result["test_accuracy"] > result["initial_test_accuracy"] > 0.4
    (tmp_path / "my_encoder.py").write_text(textwrap.dedent(DIGITS).replace("/ 8", "/ 9"))
    assert cli.main(["distill", "mine.py", "--method.kernels.0.batch", "100", "--out", "run"]) == 2
    assert "source" in capsys.readouterr().err


def test_images_are_chosen_in_the_space_of_an_encoder(digits_encoder, problem, store):
    """Herding takes the image that is nearest to the mean of its class first."""
    rule = kip.rules.Herding(kip.spaces.KernelSpace(kip.Features(digits_encoder)))
    choice = kip.Selection(1, rule=rule).prepare(problem, store)
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(64, 48)) / 8, generator.normal(size=(48, 40)) / 7
    for label, chosen in enumerate(choice.indices):
        members = np.flatnonzero(problem.labels == label)
        points = np.maximum(np.maximum(problem.inputs[members].reshape(-1, 64) @ first, 0) @ second, 0)
        distances = np.linalg.norm(points - points.mean(0), axis=1)
        assert chosen == members[distances.argmin()]
