"""The server of distributed runs: the scheduler, the executor on top of it, and one file for each transport.

`kip.server.launchpad` and `kip.server.ray` are the only importers of those libraries.
"""
