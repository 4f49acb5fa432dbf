"""The scheduler and the transports of distributed runs.

Holds nothing yet: `kip.blocks.LocalExecutor` is the executor that there is, `kip.blocks.Executor` the protocol.
"""
