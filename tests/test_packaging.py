"""The wheel owns the single name `kip`, and holds all that it needs."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "kip",
    "workers",
    "server",
    "configs",
    "tests",
    "notebooks",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build from a copy, because setuptools leaves its build folder, and files of earlier builds, in the source."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", out, source]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def members(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_the_wheel_owns_one_name(members):
    names = {name.partition("/")[0] for name in members}
    (info,) = (name for name in names if name.endswith(".dist-info"))
    assert names == {"kip", info}
    assert f"{info}/licenses/LICENSE" in members


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_no_tests(members):
    inside = {"kip": "kip", "configs": "kip/configs", "server": "kip/server", "workers": "kip/workers"}
    expected = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in inside.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {"kip/configs/digits_convnet.py", "kip/server/__init__.py", "kip/workers/__init__.py"} <= expected
    data = {"kip/py.typed", "kip/__init__.pyi", "kip/data/wordnet.tsv", "kip/report/page.html"}
    shipped = {path.name for path in (ROOT / "kip/sets/shipped").iterdir()}
    assert {"cards.json", "digits_convnet.npz"} <= shipped
    data |= {f"kip/sets/shipped/{name}" for name in shipped}
    assert expected | data == {name for name in members if ".dist-info/" not in name}


@pytest.mark.slow
def test_the_wheel_works_where_the_source_is_not(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    sets = [info.file_size for info in zipfile.ZipFile(wheel).infolist() if "/shipped/" in info.filename]
    assert 0 < sum(sets) <= 4 << 20
    # -S keeps an editable installation out, and with it the dependencies, which the script adds again.
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]; sys.path += sys.argv[2:]; import kip, kip.experiment; "
        "assert kip.__file__.startswith(sys.argv[1]), kip.__file__; "
        "assert kip.load_experiment('digits_convnet').data.name == 'digits'; "
        "loaded = kip.load_set('digits_convnet'); print(loaded.card.score)"
    )
    packages = [path for path in sys.path if path.endswith("site-packages")]
    command = [sys.executable, "-S", "-c", script, str(tmp_path), *packages]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0.9 < float(done.stdout) < 1


def test_the_dockerfile_is_one_that_linters_pass():
    """It is built nowhere: its instructions are held to what hadolint asks of them."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    instructions = [line.split(" ", 1) for line in lines]
    kinds = [kind for kind, _ in instructions]
    assert kinds == ["FROM", "WORKDIR", "COPY", "RUN", "USER", "WORKDIR", "ENTRYPOINT", "CMD"]
    given = dict(instructions)
    image, _, tag = given["FROM"].partition(":")
    assert image == "python"
    assert tag.startswith("3.")
    assert "pip install --no-cache-dir ." in given["RUN"]
    assert given["USER"] != "root"
    assert json.loads(given["ENTRYPOINT"]) == ["kip"]
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "kip", "configs", "server", "workers"} <= set(kept)


def test_the_pages_say_the_version():
    """mkdocs.yml has tags of its own, so that it is read as text."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"copyright: kip {version[1]}," in (ROOT / "mkdocs.yml").read_text()
