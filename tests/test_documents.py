"""What the README and the pages say is true: commands parse, Python runs, tutorials reach their end, links lead on."""

import contextlib
import functools
import inspect
import re
import shlex
from pathlib import Path

import pytest

import kip
from helpers.kinds import some
from kip import cli, experiment
from kip.kernels.architecture import kernel_named

pytestmark = pytest.mark.pictures
ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
TUTORIALS = [name for name in PAGES if name.startswith("docs/tutorials/")]
GUIDES = [name for name, text in PAGES.items() if name.startswith("docs/guides/") and "```python" in text]
EXTRAS = ("torch", "datasets")
"""Libraries that a block of a page may need and that a test machine may lack."""
PLACEHOLDERS = {"CONFIG", "SET", "OTHER", "FILE.py", "drift.py", "..."}


def fences(text):
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def python_of(text):
    """Return the Python blocks that are run, and those that are a file of the user's, by its name."""
    blocks = [block for language, block in fences(text) if language == "python"]
    files = {match[1]: block for block in blocks if (match := re.match(r"# (\w+\.py)\n", block))}
    return [block for block in blocks if block not in files.values()], files


FILES = {name: block for text in PAGES.values() for name, block in python_of(text)[1].items()}


def kip_commands():
    """Return the arguments of each kip command of all pages, from fences and text, without those with placeholders."""
    commands = {}
    for text in PAGES.values():
        inline = re.findall(r"`(kip [^`]+)`", text)
        shell = [line for language, block in fences(text) if language == "bash" for line in block.splitlines()]
        for part in [*inline, *(part for line in shell for part in line.split("&&"))]:
            words = shlex.split(part.replace("\n", " "), comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            if len(words) > 1 and Path(words[0]).name == "kip" and not PLACEHOLDERS & set(words):
                commands[" ".join(words[1:])] = words[1:]
    for command in cli.COMMANDS.values():  # and the examples of each command's help
        text = inspect.cleandoc(command.function().__doc__ or "").partition("Args:")[0]
        for part in re.findall(r"^    (kip (?:.*)(?:\n        .*)*)", text, re.MULTILINE):
            words = shlex.split(part.partition(" > ")[0].replace("\n", " "), comments=True)
            commands[" ".join(words[1:])] = words[1:]
    return list(commands.values())


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    """A folder as the pages' user has it, with the files that they show."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KIP_DATA_DIR", raising=False)
    return tmp_path


def test_the_pages_have_commands_and_code():
    assert len(kip_commands()) >= 40
    assert len(PAGES["README.md"].splitlines()) <= 150
    assert set(FILES) == {
        "my_encoder.py",
        "my_experiment.py",
        "my_generator.py",
        "my_latents.py",
        "my_net.py",
        "my_network.py",
        "shapes.py",
    }


@pytest.mark.parametrize("arguments", kip_commands(), ids=" ".join)
def test_a_command_of_a_page_parses(arguments, user_folder, monkeypatch, capsys):
    ran = []

    original = cli.Command.function

    def idle(command):
        function = original(command)
        return functools.wraps(function)(lambda *args, **options: ran.append(args) or {})

    monkeypatch.setattr(cli.Command, "function", idle)
    for place in ("kip.cli.runs._run", "kip.cli.several.run_several"):
        monkeypatch.setattr(place, lambda *args: ran.append(args) or {})
    if {"--help", "--version"} & set(arguments):
        with contextlib.suppress(SystemExit):
            assert cli.main(arguments) == 0
    elif len(arguments) == 1 and arguments != ["configs"]:  # the text speaks of the command as such
        assert arguments[0] in {name.split()[0] for name in cli.COMMANDS}
    else:
        assert cli.main(arguments) == 0, capsys.readouterr().err
        assert len(ran) == 1


def anchors(text):
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_a_pages_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[name]):
        if target.startswith(("http", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / name).parent / path if path else ROOT / name
        assert there.exists(), f"{target} in {name}"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{target} in {name}"


def test_the_configs_of_the_table_exist_with_the_published_accuracy():
    table = PAGES["docs/configs.md"].split("\n## ")[0]
    listed = experiment.names()
    stems = {name.partition(":")[0] for name in listed}
    rows = re.findall(r"^\| (`.*?) \| .*? \| (.*?) \| .*? \|$", table, re.MULTILINE)
    named = {stem for cell, _ in rows for stem in re.findall(r"`(\w+)`", cell)}
    assert named <= stems
    assert stems - named <= {f"table_a{number}" for number in range(3, 11)}  # written as table_a3 ... table_a10
    assert f"{sum(name.startswith('table_1:') for name in listed)} rows" in table
    for cell, published in rows:
        if number := re.match(r"[\d.]+", published):
            reference = some(kip.load_experiment(cell.strip("`")).reference)
            assert float(number[0]) == pytest.approx(100 * reference.accuracy, abs=0.05)


def test_the_figures_of_the_readme_are_those_of_the_table_of_configs():
    rows = re.findall(r"^\| `(\w+)` \| .*? \| ([\d.]+)(.*?) \| (.*?) \|$", PAGES["README.md"], re.MULTILINE)
    assert len(rows) >= 5
    for name, measured, spread, published in rows:
        (line,) = re.findall(rf"^\| `{name}` \|.*$", PAGES["docs/configs.md"], re.MULTILINE)
        assert measured + spread in line
        assert published.split(" ")[0] in line


def test_the_kernels_of_the_page_have_those_names():
    table = PAGES["docs/kernels.md"].split("## Kernels")[1].split("## Preprocessing")[0]
    names = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert len(names) >= 10
    assert [kernel_named(name).label for name in names] == names


def test_every_method_has_its_place_on_a_page():
    from kip.methods.contract import Method, import_all

    import_all()
    text = "".join(text for name, text in PAGES.items() if name.startswith("docs/methods/"))
    classes = {cls.__name__ for cls in Method.registry.values() if cls.__module__.startswith("kip.methods.")}
    assert {name for name in classes if f"`kip.{name}`" not in text} == set()


def test_the_first_two_commands_distil_and_test_and_the_second_is_what_ci_runs():
    blocks = [block for language, block in fences(PAGES["README.md"]) if language == "bash"]
    first, second = (block.strip() for block in blocks[:2])
    assert first.endswith("kip distill digits_convnet")
    assert second.endswith("-m pytest")
    assert second in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def run_blocks(text, *, said):
    """Run a page's blocks in their order: kip commands through the command line, Python as one program."""
    names = {"__name__": "page"}
    for language, block in fences(text):
        if language == "bash":
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "kip":
                    skipped = missing(words)
                    if skipped:
                        said.append(skipped)
                    else:
                        assert cli.main(words[1:]) == 0, line
        elif language == "python" and block not in FILES.values():
            try:
                exec(compile(block, "page", "exec"), names)
            except ModuleNotFoundError as error:
                if error.name not in EXTRAS:
                    raise
                said.append(error.name)


def missing(words):
    formats = {"torch": "torch", "huggingface": "datasets"}
    for word, library in formats.items():
        if word in words and not importable(library):
            return library
    return None


def importable(library):
    try:
        __import__(library)
    except ImportError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_runs_as_it_stands(name, user_folder, monkeypatch):
    said = []
    run_blocks(PAGES[name], said=said)
    if name.endswith("own_pictures.md"):
        assert (user_folder / "runs/shapes/distilled_pictures/labels.csv").is_file()
    elif name.endswith("compare.md"):
        assert (user_folder / "comparison/comparison.png").is_file()
        assert (user_folder / "grid/comparison.md").is_file()
    if said:
        pytest.skip(f"all but the blocks that need {', '.join(sorted(set(said)))}, which are not installed")


COMPILE_LONG = tuple(f"docs/guides/{name}.md" for name in ("arrays", "kernel", "neural_tangents", "scikit_learn"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in COMPILE_LONG else name for name in GUIDES]
)
def test_the_python_of_a_guide_runs_as_it_stands(name, user_folder):
    blocks, _ = python_of(PAGES[name])
    assert blocks
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, name, "exec"), names)


@pytest.mark.slow
def test_the_python_of_the_pages_runs_in_order(user_folder, capsys):
    method = {"kernels.0.family": "FC", "kernels.0.depth": "1", "steps": "20"}  # for speed
    options = [word for name, value in method.items() for word in (f"--method.{name}", value)]
    assert cli.main(["distill", "digits_convnet", *options]) == 0
    names = {"__name__": "page"}
    for page in ("README.md", "docs/using_a_set.md", "docs/python.md", "docs/data.md"):
        for block in python_of(PAGES[page])[0]:
            exec(compile(block, page, "exec"), names)
    assert "% with natural images" in capsys.readouterr().out
    assert cli.main(["distill", "my_experiment.py", "--data-dir", "data"]) == 0
    assert Path("runs/my_experiment/distilled.npz").exists()
    assert cli.main(["distill", "my_latents.py", "--data-dir", "data"]) == 0


def test_each_hop_of_the_walk_is_a_function_of_the_file_that_the_page_names():
    hops = re.findall(
        r"^\| \d+ \| `([\w/]+(?:\.py)?)`, (`.+?`) \|", (ROOT / "docs/design.md").read_text(), re.MULTILINE
    )
    assert len(hops) >= 9
    for place, names in hops:
        files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
        text = "".join(file.read_text() for file in files)
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in text, f"{place}: {name}"


def test_the_steps_that_examples_name_are_checkpoints():
    """`kip export --step 10` named a step that no run keeps."""
    named = []
    for words in kip_commands():
        options = {word: place for place, word in enumerate(words)}
        for option in ("--step", "--checkpoints"):
            run = next((word for word in words if word.startswith("runs/")), None)
            if option not in options or run is None:
                continue
            config = kip.load_experiment(run.removeprefix("runs/").partition("/")[0])
            steps = [word for word in words[options[option] + 1 :] if word.isdecimal()]
            named += steps
            for step in steps:
                assert int(step) % config.checkpoint_every == 0, " ".join(words)
                assert int(step) <= config.method.steps
    assert named
