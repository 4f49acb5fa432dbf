"""A second opinion on network kernels: the textbook recursion over every pair of positions, in plain NumPy.

A network is a list of words, among `conv act pool global flatten dense`. Three tensors go through it: the covariances
of (x_i, z_j), (x_i, x_i) and (z_j, z_j), each with the axes (..., h, w, h', w'), and the tangent kernel of the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def kernel(x, z, words, *, w_std, b_std, activation):
    """Return (ntk, nngp), each (N, M), of images x (N, H, W, C) and z (M, H, W, C) under the network `words`."""
    channels = x.shape[-1]
    cross: Any = np.einsum("nabc,mdec->nmabde", x, z) / channels
    var_x = np.einsum("nabc,ndec->nabde", x, x) / channels
    var_z = np.einsum("nabc,ndec->nabde", z, z) / channels
    ntk: Any = np.zeros_like(cross)
    for word in words:
        if word == "act":
            own_x, own_z = _diagonal(var_x), _diagonal(var_z)
            dual = {"relu": _relu, "erf": _erf}[activation]
            cross, slope = dual(cross, own_x[:, None, :, :, None, None], own_z[None, :, None, None])
            ntk = ntk * slope
            var_x = dual(var_x, own_x[:, :, :, None, None], own_x[:, None, None])[0]
            var_z = dual(var_z, own_z[:, :, :, None, None], own_z[:, None, None])[0]
        elif word in ("conv", "dense"):
            mix = _conv if word == "conv" else np.asarray
            cross, var_x, var_z = (w_std**2 * mix(k) + b_std**2 for k in (cross, var_x, var_z))
            ntk = w_std**2 * mix(ntk) + cross
        else:
            reduce = {"pool": _pool, "global": _global, "flatten": _flatten}[word]
            cross, var_x, var_z, ntk = map(reduce, (cross, var_x, var_z, ntk))
    return ntk[..., 0, 0, 0, 0], cross[..., 0, 0, 0, 0]


def _diagonal(k):
    return np.einsum("...abab->...ab", k)


def _conv(k):
    """Average k(p + s, p' + s) over the 3x3 shifts s, with zeros outside the image."""
    height, width = k.shape[-2:]
    padded = np.pad(k, [(0, 0)] * (k.ndim - 4) + [(1, 1)] * 4)
    total = np.zeros_like(k)
    for i in range(3):
        for j in range(3):
            rows, columns = slice(i, i + height), slice(j, j + width)
            total += padded[..., rows, columns, rows, columns]
    return total / 9


def _pool(k):
    """Average both positions over 2x2 cells; a last odd row or column is dropped."""
    rows, columns = k.shape[-2] // 2 * 2, k.shape[-1] // 2 * 2
    k = k[..., :rows, :columns, :rows, :columns]
    return sum(k[..., a::2, b::2, c::2, d::2] for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)) / 16


def _global(k):
    return k.mean(axis=(-4, -3, -2, -1), keepdims=True)


def _flatten(k):
    return _diagonal(k).mean(axis=(-2, -1))[..., None, None, None, None]


def _relu(k, q, r):
    """Return E[relu(u) relu(v)] and E[relu'(u) relu'(v)] for (u, v) ~ N(0, [[q, k], [k, r]]) (Cho and Saul 2009)."""
    scale = np.sqrt(q * r)
    cosine = np.clip(k / scale, -1, 1)
    angle = np.arccos(cosine)
    return scale * (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / (2 * np.pi), (np.pi - angle) / (2 * np.pi)


def _erf(k, q, r):
    """Return E[erf(u) erf(v)] and E[erf'(u) erf'(v)] for (u, v) ~ N(0, [[q, k], [k, r]]) (Williams 1997)."""
    product = (1 + 2 * q) * (1 + 2 * r)
    return 2 / np.pi * np.arcsin(2 * k / np.sqrt(product)), 4 / np.pi / np.sqrt(product - 4 * k**2)
