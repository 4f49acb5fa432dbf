"""Dataset distillation with infinitely wide networks: KIP and Label Solve in JAX.

The public names, by stage of the pipeline. They are imported when first used, so that `import kip` costs nothing.
`__init__.pyi` says the same to type checkers and editors.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    # name: module, or module:name where it has another name there; "module:" is the module itself
    # what to run
    "Experiment": "kip.experiment",
    "Reference": "kip.experiment",
    "load_experiment": "kip.experiment:load",
    # data
    "Data": "kip.data",
    "Dataset": "kip.data",
    "Split": "kip.data",
    "load_data": "kip.data:load",
    "data_from_arrays": "kip.data.arrays:from_arrays",
    "Augment": "kip.data",
    # preprocessing
    "Preprocess": "kip.preprocess",
    "fit_preprocess": "kip.preprocess:fit",
    # kernels
    "Architecture": "kip.kernels.architecture",
    "RBF": "kip.kernels.architecture",
    "Laplace": "kip.kernels.architecture",
    "Stax": "kip.kernels.architecture",
    "Features": "kip.kernels.architecture",
    "kernel": "kip.functions.kernel",
    "kernel_fn": "kip.functions.kernel",
    "write_kernel": "kip.functions.stored",
    "load_kernel": "kip.functions.stored",
    "StoredKernel": "kip.functions.stored",
    "KernelFn": "kip.functions.kernel",
    "stax": "kip.functions.stax:",
    "permit_stax": "kip.kernels.permission:permit",
    # kernel matrices in tiles, and kernel ridge regression on them
    "Blocks": "kip.blocks",
    "KernelBlocks": "kip.blocks",
    "LocalExecutor": "kip.blocks",
    "krr": "kip.krr:",
    "Ridge": "kip.krr",
    "LabelSolver": "kip.krr",
    # methods, what they are made of, and the judges of their sets
    "Method": "kip.methods.contract",
    "Needs": "kip.methods.contract",
    "Problem": "kip.methods.problem",
    "State": "kip.methods.problem",
    "judges": "kip.judges:",
    "KIP": "kip.methods.kernel.kip",
    "LabelSolve": "kip.methods.kernel.label_solve",
    "LD": "kip.methods.unrolled.ld",
    "LabelBaseline": "kip.methods.unrolled.label_baseline",
    "Training": "kip.training.learner",
    "FRePo": "kip.methods.features.frepo",
    "RFAD": "kip.methods.features.rfad",
    "RCIG": "kip.methods.features.rcig",
    "KRRST": "kip.methods.features.krr_st",
    "DC": "kip.methods.matching.dc",
    "DSA": "kip.methods.matching.dsa",
    "DM": "kip.methods.matching.dm",
    "MTT": "kip.methods.matching.mtt",
    "TESLA": "kip.methods.matching.tesla",
    "FTD": "kip.methods.matching.ftd",
    "DATM": "kip.methods.matching.datm",
    "DD": "kip.methods.unrolled.dd",
    "Latents": "kip.methods.generator",
    "Experts": "kip.methods.matching.experts",
    "SRe2L": "kip.methods.decoupled.sre2l",
    "CDA": "kip.methods.decoupled.cda",
    "DWA": "kip.methods.decoupled.dwa",
    "GVBSM": "kip.methods.decoupled.gvbsm",
    "EDC": "kip.methods.decoupled.edc",
    "FADRM": "kip.methods.decoupled.fadrm",
    "RDED": "kip.methods.decoupled.rded",
    "Crops": "kip.methods.decoupled.crops",
    "Squeeze": "kip.training.squeeze",
    "Selection": "kip.methods.selection.selection",
    "rules": "kip.methods.selection",
    "scores": "kip.methods.selection",
    "spaces": "kip.methods.selection",
    "Recording": "kip.training.records",
    "Teacher": "kip.training.self_supervised",
    "Pool": "kip.methods.features.pool",
    "Optimizer": "kip.training.recipe",
    "Network": "kip.networks",
    # runs and their results
    "run": "kip.runs.loop",
    "distill": "kip.runs.arrays",
    "Result": "kip.runs.loop",
    "Callback": "kip.runs.callbacks",
    "DistilledSet": "kip.sets.distilled",
    "load_set": "kip.sets.distilled:load",
    "Card": "kip.sets.cards",
    "save_set": "kip.sets.distilled:save",
    "evaluate_set": "kip.evaluate",
    "krr_accuracy": "kip.judges.krr_accuracy",
    # estimators of scikit-learn
    "sklearn": "kip.sklearn:",
    # finite networks, and training them on a set
    "network": "kip.networks",
    "Transfer": "kip.evaluate.transfer",
    "transfer_set": "kip.evaluate.transfer",
    "PROTOCOLS": "kip.training.protocols",
    "Protocol": "kip.training.protocols",
    "Comparison": "kip.evaluate.table",
    "compare_sets": "kip.evaluate.comparison:compare",
    "Correlation": "kip.evaluate.dcs",
    "correlate_losses": "kip.evaluate.dcs:correlate",
    "Pretraining": "kip.evaluate.pretraining",
    "pretraining_table": "kip.evaluate.pretraining:pretraining",
    "analyze_set": "kip.evaluate.analysis:analyze",
    "write_report": "kip.report.page:write",
    # errors
    "KipError": "kip.errors",
    "ConfigError": "kip.errors",
    "DataError": "kip.errors",
    "ShapeError": "kip.errors",
    "OutputError": "kip.errors",
    "CheckpointError": "kip.errors",
    "NonFiniteError": "kip.errors",
    "NotPositiveDefiniteError": "kip.errors",
    "WorkerError": "kip.errors",
    "WorkersLostError": "kip.errors",
}
_FORMER = {"kernel_function": "kip.kernel(x, z, kernel=...), or kip.kernels.kernel_function for the form of XLA alone"}
"""Names of an older kip, and what stands for them."""

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kip-distillation")
    if name in _FORMER:
        raise AttributeError(f"kip.{name} is not there any more; use {_FORMER[name]}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kip' has no attribute {name!r}")
    module, colon, attribute = _PUBLIC[name].partition(":")
    loaded = importlib.import_module(module)
    return loaded if colon and not attribute else getattr(loaded, attribute or name)


def __dir__() -> list[str]:
    return __all__
