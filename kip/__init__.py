"""Dataset distillation with infinitely wide networks: KIP and Label Solve in JAX.

The public names, by stage of the pipeline. They are imported when first used, so that `import kip` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    # what to run
    "Experiment": "kip.experiment",
    "Reference": "kip.experiment",
    "load_experiment": "kip.experiment:load",
    # data
    "Data": "kip.data",
    "Dataset": "kip.data",
    "Split": "kip.data",
    "load_data": "kip.data:load",
    "Augment": "kip.data",
    # preprocessing
    "Preprocess": "kip.preprocess",
    "fit_preprocess": "kip.preprocess:fit",
    # kernels
    "Architecture": "kip.kernels.architecture",
    "RBF": "kip.kernels.architecture",
    "Laplace": "kip.kernels.architecture",
    "Stax": "kip.kernels.architecture",
    "kernel_function": "kip.kernels",
    # kernel matrices in tiles, and kernel ridge regression on them
    "Blocks": "kip.blocks",
    "KernelBlocks": "kip.blocks",
    "LocalExecutor": "kip.blocks",
    "Ridge": "kip.krr",
    "LabelSolver": "kip.krr",
    # methods
    "KIP": "kip.distill",
    "LabelSolve": "kip.distill",
    "LD": "kip.finite.ld",
    "LabelBaseline": "kip.finite.label_baseline",
    "Training": "kip.finite.learner",
    "FRePo": "kip.finite.frepo",
    "RFAD": "kip.finite.rfad",
    "KRRST": "kip.finite.krr_st",
    "Teacher": "kip.finite.teacher",
    "Pool": "kip.finite.pool",
    "Optimizer": "kip.finite.pool",
    "Network": "kip.finite.networks",
    # runs and their results
    "run": "kip.train",
    "Result": "kip.train",
    "DistilledSet": "kip.export",
    "load_set": "kip.export:load",
    "save_set": "kip.export:save",
    "evaluate_set": "kip.evaluate",
    "krr_accuracy": "kip.evaluate",
    # finite networks, and training them on a set
    "network": "kip.finite",
    "Transfer": "kip.evaluate.transfer",
    "transfer_set": "kip.evaluate.transfer",
    "PROTOCOLS": "kip.evaluate.protocols",
    "protocol_table": "kip.evaluate.protocols:table",
    "Pretraining": "kip.evaluate.pretraining",
    "pretraining_table": "kip.evaluate.pretraining:pretraining",
    "analyze_set": "kip.evaluate.analysis:analyze",
    "write_report": "kip.page:write",
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

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kip' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return __all__
