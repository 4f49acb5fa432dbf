"""The kernel of a fully connected ReLU network.

    dense    K <- w K + b,  T <- w T + b
    relu     K, T <- their dual (`kip.kernels.engine.relu`)

for weights W_std^2 = w and biases b_std^2 = b, with K_0 = T_0 = x . z / d over all d values of an image.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from kip.kernels.architecture import Architecture
from kip.kernels.engine.relu import logarithm, rectified, relu, variance


def kernel(architecture: Architecture, x: Array, z: Array) -> Array:
    """Return the kernel (N, M) of images x (N, H, W, C) and z (M, H, W, C), both float32 or both float64."""
    w, b = architecture.w_std**2, architecture.b_std**2
    x, z = (images.reshape(len(images), -1) for images in (x, z))
    nngp = x @ z.T / x.shape[1]
    ntk = nngp if architecture.get == "ntk" else None
    v_x, v_z = (jnp.sum(images**2, 1) / images.shape[1] for images in (x, z))
    for _ in range(architecture.layers):
        nngp, v_x, v_z = w * nngp + b, w * v_x + b, w * v_z + b
        ntk = None if ntk is None else w * ntk + b
        rows, columns = variance(v_x[:, None]), variance(v_z[None])
        # Products with ones: their transpose is a matrix product, where a broadcast's, a sum, is slow on CPUs.
        log_v = logarithm(v_x)[:, None] @ jnp.ones_like(v_z)[None] + jnp.ones_like(v_x)[:, None] @ logarithm(v_z)[None]
        nngp, ntk = relu(nngp, ntk, rows, columns, log_v)
        v_x, v_z = rectified(v_x), rectified(v_z)
    return w * (nngp if ntk is None else ntk) + b
