"""The engine's form for CPUs: whole planes fused row by row, in vectors of sixteen image pairs, compiled by Numba.

It computes what `kip.kernels.engine.pairs` computes, which stays its reference, in another order: XLA for CPUs writes
every plane to memory between its loops, and the arithmetic is a quarter of its time. Here a chunk is one image of one
side against sixteen of the other. For each shift of position pairs, a row of a plane goes through all of a level's
convolutions and activations f before the next row is begun, so that what is in use stays in the first cache:

    products -> ring of three rows -> box, f -> ring of three rows -> box, f -> pool

Positions whose partner lies outside the image are never computed. The vjp computes the rows again and pulls their
cotangents back through rings of the same kind, a few rows behind.

- `compiled.py`: Numba's decorators, and the folder of compiled code; `lanes.py`: the vector of sixteen as a type;
- `dual.py`: an activation's dual of such a vector; `relu.py`, `erf.py`: those that there
  are; `activations.py`: the choice among them;
- `forward.py` and `backward.py`: one function a row operation;
- `level.py`, `pull.py`: the rows of one resolution, forward and vjp; `chunk.py`: a chunk through all resolutions;
- `own.py`: each image's variances, and their vjp; `layout.py`: how images and levels lie in memory;
- `form.py`: blocks of images over a pool of threads.

Importing this package imports no Numba; `form.py` does.
"""

from __future__ import annotations

from kip.kernels.architecture import Architecture


def supports(architecture: Architecture) -> bool:
    """Return whether the fused form computes an architecture: those with images on both sides of a convolution."""
    return architecture.family != "FC"
