"""What runs beside an accelerator when kernel tiles are spread over many machines.

Holds nothing yet: `kip.blocks.tile` is the computation that a worker will run, `kip.blocks.Executor` the protocol.
"""
