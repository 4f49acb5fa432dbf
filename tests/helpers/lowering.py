"""Programs for accelerators that are not here, and what their text says."""

from __future__ import annotations

import re

PLATFORMS = ("cuda", "rocm", "tpu")
CHOLESKY = {"cusolver_potrf_ffi", "hipsolver_potrf_ffi"}
SOLVERS = {*CHOLESKY, "cusolver_syevd_ffi", "hipsolver_syevd_ffi", "Eigh"}
"""The library calls of factorisations."""
SHAPES = {"Sharding", "shape_assertion"}


def precisions(text: str) -> set[str]:
    """Return the precisions of a program's products and convolutions."""
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line or "stablehlo.convolution" in line]
    found = [re.search(r"precision(?:_config)? = \[([^\]]*)\]", line) for line in lines]
    return {"DEFAULT" if one is None else re.findall(r"[A-Z]+", one[1])[0] for one in found}


def calls(text: str) -> set[str]:
    """Return the names of a program's calls of libraries and of the host.

    Without remarks for the compiler, and operations of the compiler's own, which older JAX writes as calls of `mhlo`.
    """
    names = set(re.findall(r"custom_call @([\w.]+)", text)) - SHAPES
    return {name for name in names if not name.startswith("mhlo.")}
