"""The kernels without a network: RBF and Laplace, of the mean squared difference of two images."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def rbf(x: jax.Array, z: jax.Array, *, length_scale: float) -> jax.Array:
    """Return K_ij = exp(-|x_i - z_j|^2 / (2 length_scale^2 d)).

    Args:
        x: images (N, H, W, C), float.
        z: images (M, H, W, C), float.
        length_scale: in units of sqrt(d), d = H W C.

    Returns:
        (N, M), in the type of the images, exactly 1 where x_i and z_j are equal.
    """
    return jnp.exp(mean_squared_difference(_flat(x), _flat(z)) * (-0.5 / length_scale**2))


def laplace(x: jax.Array, z: jax.Array, *, length_scale: float) -> jax.Array:
    """Return K_ij = exp(-|x_i - z_j| / (length_scale sqrt(d))).

    Args:
        x: images (N, H, W, C), float.
        z: images (M, H, W, C), float.
        length_scale: in units of sqrt(d), d = H W C.

    Returns:
        (N, M), in the type of the images, exactly 1 where x_i and z_j are equal. There the gradient, which does not
        exist, is 0.
    """
    squared = mean_squared_difference(_flat(x), _flat(z))
    # The square root has an infinite slope at 0, and 0 * inf is NaN in its vjp: it must not see the zeros at all.
    apart = squared > 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
    return jnp.exp(distance * (-1.0 / length_scale))


@jax.custom_jvp
def mean_squared_difference(x: jax.Array, z: jax.Array) -> jax.Array:
    """Return D_ij = |x_i - z_j|^2 / d for x (N, d) and z (M, d), as (N, M).

    It sums squared differences. The expansion |x|^2 + |z|^2 - 2 x.z is one matrix product and five times faster, but
    leaves about 1e-7 |x|^2 of rounding in float32: the diagonal would not be exactly 0, and the Laplace kernel of
    near-duplicates would be off by 3e-4. The derivative suffers no such cancellation that matters, and is by products:

    dD_ij = 2/d (x_i . dx_i - dx_i . z_j + z_j . dz_j - x_i . dz_j)
    """
    # Row by row: ten times faster on a CPU than the reduction of an (N, M, d) broadcast, which XLA does not vectorise.
    return jax.lax.map(lambda row: jnp.mean(jnp.square(row - z), axis=-1), x)


@mean_squared_difference.defjvp
def _mean_squared_difference_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
    (x, z), (dx, dz) = primals, tangents
    by_x = jnp.sum(x * dx, axis=1)[:, None] - dx @ z.T
    by_z = jnp.sum(z * dz, axis=1)[None] - x @ dz.T
    return mean_squared_difference(x, z), (by_x + by_z) * (2 / x.shape[1])


def _flat(images: jax.Array) -> jax.Array:
    return images.reshape(images.shape[0], -1)
