"""The kernel of a fully connected network.

    dense    K <- w K + b,  T <- w T + b
    f        K, T <- their dual under the activation (`kip.kernels.engine.dual`)

for weights W_std^2 = w and biases b_std^2 = b, with K_0 = T_0 = x . z / d over all d values of an image.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from kip.kernels.architecture import Architecture
from kip.kernels.engine.activations import DUALS
from kip.kernels.engine.dual import activate, logarithm, variance


def kernel(architecture: Architecture, x: Array, z: Array) -> Array:
    """Return the kernel (N, M) of images x (N, H, W, C) and z (M, H, W, C), both float32 or both float64."""
    w, b, dual = architecture.w_std**2, architecture.b_std**2, DUALS[architecture.activation]
    x, z = (images.reshape(len(images), -1) for images in (x, z))
    nngp = x @ z.T / x.shape[1]
    ntk = nngp if architecture.get == "ntk" else None
    v_x, v_z = (jnp.sum(images**2, 1) / images.shape[1] for images in (x, z))
    for _ in range(architecture.layers):
        nngp, v_x, v_z = w * nngp + b, w * v_x + b, w * v_z + b
        ntk = None if ntk is None else w * ntk + b
        rows, columns = variance(dual, v_x[:, None]), variance(dual, v_z[None])
        # Products with ones: their transpose is a matrix product, where a broadcast's, a sum, is slow on CPUs.
        log_x, log_z = logarithm(dual, v_x), logarithm(dual, v_z)
        log_q = log_x[:, None] @ jnp.ones_like(v_z)[None] + jnp.ones_like(v_x)[:, None] @ log_z[None]
        nngp, ntk = activate(dual, nngp, ntk, rows, columns, log_q)
        v_x, v_z = dual.next_variance(v_x), dual.next_variance(v_z)
    return w * (nngp if ntk is None else ntk) + b
