"""The engine's form for GPUs: whole planes fused in registers, in Pallas, compiled by Triton.

It computes what `kip.kernels.engine.pairs` computes, which stays its reference. XLA writes every plane to memory
between its loops: a GPU would wait for its memory most of the time. Here a layer's planes go through convolutions and
activations in registers, with pairs on the lanes, and leave the chip pooled. The vjp computes them again, one
convolution at a time, and sums what belongs to one image in a fixed order, without atomic additions.

- `program.py`: where a program of a kernel stands, and what it reads there;
- `kernel.py`: the two kernels, forward and vjp;
- `form.py`: an architecture's kernel made of them, its poolings and readouts by XLA.

Elsewhere than on a GPU the kernels are interpreted, which is for tests.
"""

from __future__ import annotations

from kip.kernels.architecture import Architecture


def supports(architecture: Architecture) -> bool:
    """Return whether this form computes an architecture: those with images on both sides of a convolution."""
    return architecture.family != "FC"
