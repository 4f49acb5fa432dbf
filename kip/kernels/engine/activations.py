"""The duals of the activations that an architecture can name."""

from __future__ import annotations

from kip.kernels.engine.dual import Dual
from kip.kernels.engine.erf import ERF
from kip.kernels.engine.relu import RELU

DUALS: dict[str, Dual] = {"relu": RELU, "erf": ERF}
"""`Architecture.activation` -> its dual."""
