"""The memory that a kernel entry takes, so that tiles can be chosen before anything is compiled."""

from __future__ import annotations

from typing import NamedTuple

from kip.kernels.architecture import Architecture, Implementation, Kernel, Stax
from kip.kernels.levels import levels

_SMALL_TILE = 64
LANES = 32
"""Image pairs of a warp, one a thread, which the form for GPUs takes at least: a tile's rows are filled up to multiples
of it."""
PLACES = (1 << 31) - 1
"""The numbers that an array of the form for GPUs may have: 32-bit numbers tell their places."""


class TileMemory(NamedTuple):
    """The temporary memory of a tile on a device, forward and vjp.

    Attributes:
        entry: bytes of each entry.
        beside: bytes more of each entry that is computed at a time.
        together: the number of entries that are computed at a time, at most.
        lanes: the number whose multiples a tile's rows are filled up to.
        most: the number of entries that a tile may have; None: any.
    """

    entry: int
    beside: int = 0
    together: int = 0
    lanes: int = 1
    most: int | None = None

    def of(self, rows: int, columns: int) -> int:
        """Return the bytes of a tile."""
        count = -(-rows // self.lanes) * self.lanes * columns
        return count * self.entry + min(count, self.together) * self.beside

    def entries(self, memory_bytes: int) -> int:
        """Return how many entries fit the memory, those counted that fill up the rows; 0 if none does."""
        count = memory_bytes // (self.entry + self.beside)
        if count > self.together:
            count = max(self.together, (memory_bytes - self.together * self.beside) // self.entry)
        return count if self.most is None else min(count, self.most)


def tile_memory(
    kernel: Kernel, image_shape: tuple[int, int, int], itemsize: int = 4, implementation: Implementation = "auto"
) -> TileMemory:
    """Return what a tile takes on the device that programs are made for, see `kip.placement`.

    On a GPU, the form for XLA computes large chunks of pairs, whose planes outweigh what an entry keeps. With p numbers
    in a plane of the first level, of c convolutions, and q in all planes of K and T of the second, it takes

        a q of each entry, and a ((20 + 3 c) p + 3 q) more of each entry of a chunk,

    as programs that were compiled for an H100 and an A100 have it: ConvNet, ConvNet3, ConvVec and Myrtle, images of 32
    and 16 pixels.

    Args:
        kernel: the kernel value.
        image_shape: (H, W, C).
        itemsize: bytes of a number, 4 or 8.
        implementation: who computes a network, see `kip.kernels.kernel_function`.

    Raises:
        ShapeError: if the images are too small for the kernel's poolings.
    """
    entry = entry_bytes(kernel, image_shape, itemsize, implementation)
    if not isinstance(kernel, Architecture) or kernel.family == "FC" or implementation == "neural_tangents":
        return TileMemory(entry)
    first, *above = levels(kernel, *image_shape[:2])
    if implementation == "pallas":
        columns = first.rows if first.columns is None else first.columns
        planes = first.shifts * first.height * (2 * columns + 1) * first.width
        return TileMemory(entry, lanes=LANES, most=PLACES // planes)
    from kip.kernels.engine.chunks import most_pairs
    from kip.placement import platform

    if platform() != "gpu":
        return TileMemory(entry)
    kept = 2 * above[0].shifts * above[0].plane_size if above else _numbers_of_images(image_shape)
    beside = (20 + 3 * first.convs) * first.plane_size + 3 * kept
    return TileMemory(itemsize * kept, itemsize * beside, most_pairs(first.plane_size))


def _numbers_of_images(image_shape: tuple[int, int, int]) -> int:
    height, width, channels = image_shape
    return max(1, height * width * channels // _SMALL_TILE)


def entry_bytes(
    kernel: Kernel, image_shape: tuple[int, int, int], itemsize: int = 4, implementation: Implementation = "auto"
) -> int:
    """Estimate the temporary memory of one kernel entry, forward and vjp with respect to both images together.

    A tile of N x M entries takes about N M times this. With p = H W positions, d = p C values and a = itemsize:

    | kernel | bytes |
    |---|---|
    | RBF, Laplace; Features, beside its encoder | a (8 + d / 64) |
    | FC | a (6 + 6 depth + d / 64) |
    | the engine's convolutional networks | a (2 (second level's planes) + max(8, 4 + 2 convs) (a plane of the first)) |
    | those in the form for GPUs | a 1.1 (planes of K and T between convolutions, and cotangents: `_of_layers`) |
    | neural-tangents' ConvVec | a p (2 + 8 depth): it needs each position with itself only |
    | neural-tangents' other networks | a (1.5 p^2 + 10.5 times the sum over activations of (positions there)^2) |

    The form is what has to be kept for the backward pass; the constants are fitted to what XLA's compiler reports (JAX
    0.6.2 to 0.12, CPU) for sides of 8 to 32 pixels, and lie above it. They cover what is kept for each image or each
    chunk of pairs, and not for each entry, in tiles of at least 32 x 32 images for the engine's convolutional networks,
    4 x 4 for neural-tangents' and 64 x 64 for the others. Smaller tiles take more an entry. With itemsize 8
    neural-tangents' convolutional networks take twice as much again.

    Args:
        kernel: the kernel value. A `Stax` kernel brings its own `entry_bytes`, returned as it is.
        image_shape: (H, W, C).
        itemsize: bytes of a number, 4 or 8; 8 wherever JAX has float64 enabled, because neural-tangents then uses it.
        implementation: who computes a network, see `kip.kernels.kernel_function`.

    Returns:
        Bytes, at least 1.

    Raises:
        ShapeError: if the images are too small for the kernel's poolings.
    """
    height, width, channels = image_shape
    kernel.check_images(height, width)
    if isinstance(kernel, Stax):
        return kernel.entry_bytes
    share_of_images = height * width * channels / _SMALL_TILE
    if not isinstance(kernel, Architecture):
        numbers = 8 + share_of_images
    elif kernel.family == "FC":
        numbers = 6 + 6 * kernel.layers + share_of_images
    elif implementation == "pallas":
        numbers = _of_layers(kernel, height, width)
    elif implementation != "neural_tangents":
        first, *above = levels(kernel, height, width)
        numbers = max(8, 4 + 2 * first.convs) * first.plane_size + (
            2 * above[0].shifts * above[0].plane_size if above else 0
        )
    elif kernel.family == "ConvVec":
        numbers = height * width * (2 + 8 * kernel.layers)
    else:
        pairs = sum(level.convs * (level.height * level.width) ** 2 for level in levels(kernel, height, width))
        numbers = 1.5 * (height * width) ** 2 + 10.5 * pairs
        if itemsize == 8:
            numbers *= 2  # the shifted sums that stand for float64 convolutions keep more than a convolution does
    return max(1, round(itemsize * numbers))


def _of_layers(kernel: Architecture, height: int, width: int) -> float:
    """Return the numbers that the form for GPUs holds of a pair: K and T at a level's convolutions, and cotangents.

    The vjp keeps the planes between convolutions, and those that a readout takes. While a convolution is pulled back,
    cotangents of the planes before and after it are there. What is pooled along x, of all shifts along y, is less than
    one plane for K and T together. A tenth more is for images, as programs compiled for an H100 have it.
    """
    numbers = 0.0
    for level in levels(kernel, height, width):
        columns = level.rows if level.columns is None else level.columns
        planes = level.shifts * level.height * (2 * columns + 1) * level.width
        pooled = level.end == "pool"
        kept = level.convs - pooled
        numbers += 1.1 * planes * (2 * (kept + min(2, kept)) + pooled)
    return numbers
