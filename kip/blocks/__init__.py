"""Kernel matrices in tiles: the plan, one tile's forward and vjp, executors, and the assembly."""

from kip.blocks.assemble import KernelBlocks, KernelMatrices
from kip.blocks.executor import Executor
from kip.blocks.local import LocalExecutor
from kip.blocks.plan import Blocks, Tile, TileSize, plan, tile_size
from kip.blocks.tile import Images, TileGradient

__all__ = [
    "Blocks",
    "Executor",
    "Images",
    "KernelBlocks",
    "KernelMatrices",
    "LocalExecutor",
    "Tile",
    "TileGradient",
    "TileSize",
    "plan",
    "tile_size",
]
