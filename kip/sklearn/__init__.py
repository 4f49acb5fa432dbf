"""Estimators of scikit-learn.

- `KernelRidge` and `KernelRidgeClassifier`: kernel ridge regression under any kernel of kip's.
- `DistilledClassifier`: the same on a train set that a method of kip's has distilled.

scikit-learn is loaded with the first of them, and not by `import kip.sklearn`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kip.sklearn.distilled import DistilledClassifier as DistilledClassifier
    from kip.sklearn.kernel_ridge import KernelRidge as KernelRidge
    from kip.sklearn.kernel_ridge import KernelRidgeClassifier as KernelRidgeClassifier

_MODULES = {
    "DistilledClassifier": "kip.sklearn.distilled",
    "KernelRidge": "kip.sklearn.kernel_ridge",
    "KernelRidgeClassifier": "kip.sklearn.kernel_ridge",
}

__all__ = ["DistilledClassifier", "KernelRidge", "KernelRidgeClassifier"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kip.sklearn' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
