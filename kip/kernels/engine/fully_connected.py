"""The kernel of a fully connected network.

    dense    K <- w K + b,  T <- w T + b
    f        K, T <- their dual under the activation (`kip.kernels.engine.dual`)

for weights W_std^2 = w and biases b_std^2 = b, with K_0 = T_0 = x . z / d over all d values of an image.
"""

from __future__ import annotations

import jax
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
    v_x, v_z = (jnp.sum(images**2, 1) / images.shape[1] for images in (x, z))
    equal = _find_equal(nngp, x, z, v_x, v_z)
    ntk = nngp if architecture.get == "ntk" else None
    for _ in range(architecture.layers):
        nngp, v_x, v_z = w * nngp + b, w * v_x + b, w * v_z + b
        nngp = _at_no_angle(nngp, equal, v_x, v_z)
        ntk = None if ntk is None else w * ntk + b
        rows, columns = variance(dual, v_x[:, None]), variance(dual, v_z[None])
        # Products with ones: their transpose is a matrix product, where a broadcast's, a sum, is slow on CPUs.
        log_x, log_z = logarithm(dual, v_x), logarithm(dual, v_z)
        log_q = log_x[:, None] @ jnp.ones_like(v_z)[None] + jnp.ones_like(v_x)[:, None] @ log_z[None]
        nngp, ntk = activate(dual, nngp, ntk, rows, columns, log_q)
        v_x, v_z = dual.next_variance(v_x), dual.next_variance(v_z)
    return w * (nngp if ntk is None else ntk) + b


def _find_equal(nngp: Array, x: Array, z: Array, v_x: Array, v_z: Array) -> Array:
    """Return (N, M), true where the z nearest to an x is the same image; of several such z, one is found.

    A matrix product and a sum of squares add the same numbers in different orders, and equal images would seem to stand
    at an angle of the root of a rounding error: 3e-4 in float32, so that the diagonal of a tangent kernel would be off
    by 1e-4.
    """
    nearest = jnp.argmin(v_x[:, None] + v_z[None] - 2 * nngp, axis=1)
    same = jnp.all(x == z[nearest], axis=1)
    return (jnp.arange(len(z)) == nearest[:, None]) & same[:, None]


def _at_no_angle(nngp: Array, equal: Array, v_x: Array, v_z: Array) -> Array:
    """Return K whose entries of equal images are their variance, so that their angle is exactly zero."""
    variances = jax.lax.stop_gradient(0.5 * v_x[:, None] + 0.5 * v_z[None])
    # The gradient that the entry has as a product is right as it is: a zero hands it on.
    return jnp.where(equal, variances + (nngp - jax.lax.stop_gradient(nngp)), nngp)
