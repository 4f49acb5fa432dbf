"""Our own kernels of networks: FC, ConvVec, ConvNet, ConvNet3 and Myrtle, NTK and NNGP.

They follow the same recursion as neural-tangents, which stays the reference (`kip.kernels.neural_tangents`) and which
the tests compare with, and differ in how it is computed:

- `kip.kernels.levels`: only the position pairs that the poolings need, exactly, and none twice;
- `planes.py`: image pairs as minor axis, so that a convolution is a sum of slices and everything vectorises;
- `dual.py`: an activation as the engine needs it; `activations.py`: those that there are;
- `relu.py`: the ReLU's, one root and two polynomials a pair, accurate for equal and nearly equal images; its vjp is
  written by hand; `erf.py`: that of erf, likewise;
- `chunks.py`: a block of pairs in parts that stay in cache, each image's values laid out once for all its pairs;
- `pairs.py`: what depends on one image once an image, the rest in a loop that stays in cache and recomputes its
  planes in the vjp.

Reference: Arora et al. 2019, "On Exact Computation with an Infinitely Wide Neural Net".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jax import Array

from kip.kernels.architecture import Architecture
from kip.kernels.engine import fully_connected, pairs


def network(architecture: Architecture) -> Callable[[Array, Array], Array]:
    """Return the kernel function of an architecture.

    Returns:
        A function of images x (N, H, W, C) and z (M, H, W, C), both float32 or both float64, that gives the kernel
        (N, M). Differentiable in both; where x_i = z_j, with the finite limit of the gradient.
    """
    return partial((fully_connected if architecture.family == "FC" else pairs).kernel, architecture)
