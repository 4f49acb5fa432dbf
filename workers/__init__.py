"""The process beside an accelerator, when kernel tasks are spread over many: bytes in, bytes out.

Nothing here knows how bytes travel; `kip.server` holds the scheduler that sends them and one file for each transport.
"""
