"""Kernel matrices in tasks of tiles: the plan, forward and vjp of each, executors, and the assembly."""

from kip.blocks.assemble import KernelBlocks, KernelMatrices
from kip.blocks.executor import Executor
from kip.blocks.local import LocalExecutor
from kip.blocks.plan import Blocks, Plan, Task, Tile, TileSize, merged, plan, tiles
from kip.blocks.source import Source
from kip.blocks.tile import Images, TileGradient

__all__ = [
    "Blocks",
    "Executor",
    "Images",
    "KernelBlocks",
    "KernelMatrices",
    "LocalExecutor",
    "Plan",
    "Source",
    "Task",
    "Tile",
    "TileGradient",
    "TileSize",
    "merged",
    "plan",
    "tiles",
]
