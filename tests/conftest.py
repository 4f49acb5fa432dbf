"""What the tests share.

Every test sees two simulated CPU devices, so that the local executor runs several threads; a program is compiled for
each of them. With JAX before 0.10 it sees one: there, tasks computed on three of them at a time now and then get other
bits than in a process that has one.
"""

import os
from importlib.metadata import version
from pathlib import Path

from kip.cli import compilation

# These have to stand before the import of JAX. Most of what a test takes is compiling, of programs that run once: they
# are not optimised, unless the environment says so (`JAX_DISABLE_MOST_OPTIMIZATIONS=0`), and all of them are kept, for
# the other tests and for the processes that tests start.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    # By XLA's earlier emitters of fused loops they compile twice as fast. jaxlib 0.12 has them no more, and ends a
    # process whose flags it does not know.
    if (0, 6) <= tuple(int(part) for part in version("jaxlib").split(".")[:2]) <= (0, 10):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
compilation.keep_programs()

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

from kip.kernels.fused.compiled import _folder  # noqa: E402
from kip.pictures import canvas, comparison, curves, images, panels  # noqa: E402
from kip.runs import loop  # noqa: E402
from kip.storage.files import atomic_write, cache_dir  # noqa: E402

MANY_DEVICES = (0, 10)
"""The first JAX with which several simulated devices have been seen to give the bits of one."""

jax.config.update("jax_num_cpu_devices", 2 if jax.__version_info__ >= MANY_DEVICES else 1)
jax.config.update("jax_platforms", "cpu")


COMPILED = _folder(cache_dir())
"""Where Numba's code is kept: it is the same for all tests, and takes a minute to compile."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Keep the user's cache out of the tests, apart from compiled code."""
    own = tmp_path_factory.getbasetemp() / "cache"
    own.mkdir(exist_ok=True)
    if COMPILED is not None and not (own / COMPILED.name).exists():
        (own / COMPILED.name).symlink_to(COMPILED, target_is_directory=True)
    monkeypatch.setenv("KIP_CACHE_DIR", str(own))


@pytest.fixture(scope="module", autouse=True)
def _programs_of_a_file():
    """Let go of a file's programs: XLA's take memory maps, of which a process has a limited number."""
    yield
    jax.clear_caches()


def _dot(path, *_, **__):
    atomic_write(path, lambda file: Image.new("L", (1, 1)).save(file, "png"))


@pytest.fixture(scope="module", autouse=True)
def _no_pictures(request):
    """Draw a dot for each picture of a run or a comparison, which takes longer than they do.

    A file with `pytestmark = pytest.mark.pictures` has the real ones.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("pictures") is None:
            for module, name in ((loop, "save_images"), (loop, "save_curves")):
                patch.setattr(module, name, _dot)
            patch.setattr(comparison, "save_panels", _dot)
            patch.setattr(comparison, "save_dots", lambda paths, *_, **__: [_dot(path) for path in paths])
        yield


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """Keep lines on what goes on out of what tests read: on a slow machine there are more of them."""
    monkeypatch.setattr("kip.progress.STAGE_SECONDS", float("inf"))
    monkeypatch.setattr("kip.progress.LINE_SECONDS", float("inf"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def problem():
    """The digits as a method gets them: standardised, not augmented."""
    from kip import data, preprocess
    from kip.blocks import KernelBlocks
    from kip.methods.problem import Problem

    train = data.load(data.Data("digits")).train
    transform = preprocess.fit(preprocess.Preprocess("standardize"), train.images)
    return Problem(
        pixels=train.images,
        inputs=transform.apply(train.images),
        labels=train.labels,
        num_classes=10,
        classes=data.ClassIndex(train.labels, 10),
        transform=transform,
        augment=data.Augment("none"),
        blocks=KernelBlocks(),
        seed=0,
    )


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of artefacts of its own, the shared ones included."""
    from kip.storage.artefacts import Store

    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "cache"))
    return Store(tmp_path / "artefacts", show_progress=False)


@pytest.fixture
def shared_store(tmp_path, tmp_path_factory, monkeypatch):
    """A store of artefacts of its own; what its shared ones hold was perhaps trained for another test."""
    from kip.storage.artefacts import Store

    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "shared"))
    return Store(tmp_path / "artefacts", show_progress=False)


@pytest.fixture
def real_data():
    """The folder of real data sets, NAME.npz each."""
    folder = os.environ.get("KIP_DATA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("KIP_DATA_DIR names no folder of real data sets")
    return Path(folder)


@pytest.fixture
def figures(monkeypatch):
    """Return the list into which saved figures go, beside the file."""
    kept = []
    for module in (curves, images, panels):
        monkeypatch.setattr(module, "save", lambda figure, path: (kept.append(figure), canvas.save(figure, path)))
    return kept
