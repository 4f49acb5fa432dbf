"""Who imports whom: the direction between modules, heavy libraries in one file each, what an import leaves behind."""

import ast
import functools
from pathlib import Path

import pytest

from helpers.interpreter import printed

ROOT = Path(__file__).resolve().parents[1]
ORDER = [
    ["errors"],
    ["config", "rng", "precision", "placement", "machine", "progress"],
    ["storage"],
    ["data", "preprocess", "kernels", "krr"],
    ["networks"],
    ["blocks"],
    ["functions"],
    ["training"],
    ["judges"],
    ["methods"],
    ["experiment"],
    ["sets", "pictures"],
    ["runs"],
    ["evaluate", "report", "bench", "sklearn"],
    ["workers"],
    ["server"],
    ["cli"],
    ["__main__"],
]
"""A unit of kip (a module or a package) imports units of earlier rows only: those of one row do not know each other."""
RANK = {unit: rank for rank, row in enumerate(ORDER) for unit in row}
WORKERS_MAY_IMPORT = {"blocks", "kernels", "data", "preprocess", *ORDER[0], *ORDER[1], *ORDER[2]}

HOMES = {
    "neural_tangents": ["kip/kernels/neural_tangents.py"],
    "numba": [
        "kip/kernels/fused/activations.py",
        "kip/kernels/fused/compiled.py",
        "kip/kernels/fused/erf.py",
        "kip/kernels/fused/lanes.py",
        "kip/kernels/fused/relu.py",
    ],
    "llvmlite": ["kip/kernels/fused/compiled.py", "kip/kernels/fused/lanes.py"],
    "tensorflow_datasets": ["kip/data/tfds.py"],
    "tensorflow": ["kip/data/tfds.py"],
    "matplotlib": [
        "kip/bench/devices.py",
        "kip/bench/engine.py",
        "kip/bench/matching.py",
        "kip/evaluate/embedding.py",
        "kip/pictures/canvas.py",
        "kip/pictures/charts.py",
        "kip/pictures/curves.py",
        "kip/pictures/dots.py",
        "kip/pictures/panels.py",
        "kip/pictures/scaling.py",
    ],
    "sklearn": [
        "kip/data/sources.py",
        "kip/evaluate/embedding.py",
        "kip/evaluate/measures.py",
        "kip/methods/selection/greedy.py",
        "kip/sklearn/distilled.py",
        "kip/sklearn/kernel_ridge.py",
        "kip/sklearn/validation.py",
    ],
    "optax": [
        "kip/bench/networks.py",
        "kip/methods/decoupled/groups.py",
        "kip/methods/descent.py",
        "kip/methods/features/frepo.py",
        "kip/methods/features/hypergradient.py",
        "kip/methods/features/krr_st.py",
        "kip/methods/features/pool.py",
        "kip/methods/features/rcig.py",
        "kip/methods/features/rfad.py",
        "kip/methods/kernel/kip.py",
        "kip/methods/matching/datm.py",
        "kip/methods/matching/dm.py",
        "kip/methods/matching/gradient_matching.py",
        "kip/methods/matching/trajectory_matching.py",
        "kip/methods/problem.py",
        "kip/methods/unrolled/dd.py",
        "kip/methods/unrolled/ld.py",
        "kip/training/learner.py",
        "kip/training/loop.py",
        "kip/training/losses.py",
        "kip/training/recipe.py",
        "kip/training/update.py",
    ],
    "flax": ["kip/networks/architectures.py", "kip/networks/layers.py", "kip/networks/model.py", "kip/networks/own.py"],
    "tyro": [
        "kip/cli/bench.py",
        "kip/cli/completion.py",
        "kip/cli/help.py",
        "kip/cli/judge.py",
        "kip/cli/matrices.py",
        "kip/cli/options.py",
        "kip/cli/overrides.py",
        "kip/cli/runs.py",
        "kip/cli/share.py",
        "kip/cli/work.py",
    ],
    "zmq": ["server/router.py", "workers/connect.py", "workers/keys.py", "workers/wire.py"],
    "jinja2": ["kip/report/page.py"],
    "datasets": ["kip/sets/formats.py"],
    "launchpad": ["server/launchpad.py"],
    "ray": ["server/ray.py"],
    "torch": ["kip/bench/matching.py", "kip/sets/formats.py"],
}
"""The files that import each heavy or optional library."""


def sources(folder):
    return sorted(path for path in (ROOT / folder).rglob("*.py"))


@functools.cache
def imports(path):
    """Return the full names of what a file imports, anywhere in it, `importlib.import_module("...")` included."""
    imported = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            imported += [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    return imported


def unit(path):
    """Return the unit of kip that a file is part of: `krr` for kip/krr.py, `data` for kip/data/npz.py."""
    return path.relative_to(ROOT / "kip").parts[0].removesuffix(".py")


def units_imported(path):
    """Return the units of kip that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("kip.")}


KIP = [path for path in sources("kip") if path != ROOT / "kip" / "__init__.py"]


def test_the_sources_are_found():
    assert {"krr", "data", "runs", "cli"} <= {unit(path) for path in KIP}
    assert "kip.errors.DataError" in imports(ROOT / "kip/data/npz.py")
    assert "neural_tangents" in imports(ROOT / "kip/kernels/neural_tangents.py")
    assert units_imported(ROOT / "kip/data/sampling.py") == {"rng", "errors"}


@pytest.mark.parametrize("path", KIP, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_to_earlier_stages_only(path):
    own = unit(path)
    assert own in RANK, f"give {own!r} its place in ORDER"
    for other in units_imported(path) - {own}:
        assert other in RANK, f"{other!r} is not to be imported from kip.{own}, or has no place in ORDER"
        assert RANK[other] < RANK[own], f"kip.{own} imports kip.{other}"


def test_the_package_itself_imports_nothing():
    assert all(
        name.split(".")[0] in ("__future__", "importlib", "typing") for name in imports(ROOT / "kip/__init__.py")
    )


@pytest.mark.parametrize(
    "path", sources("kip") + sources("workers") + sources("server"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_imports_configs_tests_or_notebooks(path):
    for name in imports(path):
        assert not name.startswith(("kip.configs", "configs", "tests", "notebooks")), name


@pytest.mark.parametrize("path", sources("workers"), ids=lambda path: path.name)
def test_workers_import_the_kernel_blocks_and_what_they_need_only(path):
    assert units_imported(path) <= WORKERS_MAY_IMPORT | {"workers"}


@pytest.mark.parametrize("path", sources("configs"), ids=lambda path: path.name)
def test_configs_import_kip_and_each_other_only(path):
    assert {name.split(".")[0] for name in imports(path)} <= {"kip", "dataclasses", "collections", "__future__"}


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_is_imported_in_its_own_file_only(library):
    everything = [*sources("kip"), *sources("server"), *sources("workers")]
    files = [path for path in everything if any(name.split(".")[0] == library for name in imports(path))]
    assert [str(path.relative_to(ROOT)) for path in files] == HOMES[library]


@functools.cache
def names(path):
    """Return every dotted name that a file imports or uses, such as `scipy.linalg.eigh` and `np.linalg.norm`."""
    used = set(imports(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute | ast.Name):
            used.add(ast.unparse(node))
    return used


@pytest.mark.parametrize("path", KIP, ids=lambda path: str(path.relative_to(ROOT)))
def test_linear_systems_are_solved_in_krr_and_spectra_taken_in_zca_and_spectrum_only(path):
    solvers = {
        "cho_factor",
        "cho_solve",
        "cholesky",
        "lstsq",
        "solve_triangular",
        "qr",
        "pinv",
        "inv",
        "lapack",
        "lu_factor",
    }
    spectra = {"eigh", "eigvalsh", "eig", "svd"}
    harmless = {"norm", "blas"}
    parts = {part for name in names(path) if "linalg" in name for part in name.split(".")}
    parts |= {name for name in names(path) if name in solvers | spectra}
    allowed = {"linalg", "scipy", "np", "numpy", "jnp", "jax", *harmless}
    where = str(path.relative_to(ROOT))
    if where == "kip/krr.py":
        assert {"cho_factor", "lstsq"} <= parts  # the search finds what it is to find
        return
    if where == "kip/evaluate/spectrum.py":
        assert "eigh" in parts
        allowed |= spectra
    if where == "kip/methods/decoupled/gvbsm.py":  # its loss is of the eigenvalues of a class's Gram matrix
        allowed |= {"eigvalsh"}
    if where == "kip/preprocess/zca.py":
        assert "eigh" in parts
        allowed |= {"eigh", "dsyrk"}
    assert parts <= allowed, f"{where}: {sorted(parts - allowed)}"


def test_importing_all_of_kip_changes_no_setting_of_jax_and_loads_no_tensorflow():
    output = printed("""
        import importlib, pkgutil, sys
        import jax
        before = dict(jax.config.values)
        import kip, kip.runs.loop
        for name in kip.__all__:
            getattr(kip, name)
        apart = ("kip.configs", "kip.sklearn.")  # what the user loads, and estimators of scikit-learn
        modules = [m.name for m in pkgutil.walk_packages(kip.__path__, "kip.") if not m.name.startswith(apart)]
        for name in modules:
            importlib.import_module(name)
        changed = {key for key, value in jax.config.values.items() if before.get(key, value) != value}
        assert not changed, changed
        heavy = {"tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "PIL", "launchpad", "ray"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        print(len(modules))
    """)
    assert int(output) > 30


def test_scikit_learn_is_loaded_with_its_estimators_alone_and_is_not_shadowed_by_them():
    output = printed("""
        import sys
        import kip
        kip.sklearn
        assert "sklearn" not in sys.modules
        estimator = kip.sklearn.KernelRidge()
        import sklearn
        assert sklearn is sys.modules["sklearn"] is not kip.sklearn
        print(isinstance(estimator, sklearn.base.BaseEstimator))
    """)
    assert output.strip() == "True"


@pytest.mark.slow
def test_a_whole_run_loads_no_tensorflow(tmp_path):
    output = printed(
        """
        import sys
        from pathlib import Path
        import kip
        from kip.data import Augment
        method = kip.KIP(target_batch=20, steps=1, kernels=(kip.Architecture("FC", 1),))
        experiment = kip.Experiment(method=method, preprocess=kip.Preprocess("zca"), augment=Augment("rotate_shift"))
        out = Path(sys.argv[1])
        result = kip.run(experiment, out, show_progress=False)
        with kip.KernelBlocks() as blocks:
            kip.evaluate_set(kip.load_set(out / "distilled.npz"), blocks)
        print(result.steps, [name for name in sys.modules if name.split(".")[0].startswith(("tensorflow", "tf2jax"))])
        """,
        tmp_path / "run",
    )
    assert output.strip() == "1 []"
