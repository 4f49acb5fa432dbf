"""A worker process that lies, freezes or is old: `python bad_worker.py HOST PORT HOW`, its key in $KIP_WORKER_KEY."""

import itertools
import os
import signal
import sys
import time

import numpy as np

from kip.workers import worker
from kip.workers.codec import decode, encode
from kip.workers.connect import serve
from kip.workers.keys import read_key
from kip.workers.worker import Worker

HOW = {
    "nan": lambda answer: encode(answer._replace(arrays={"result": answer.arrays["result"] * np.nan})),
    "shape": lambda answer: encode(answer._replace(arrays={"result": answer.arrays["result"][1:]})),
    "truncated": lambda answer: encode(answer)[:-5],
    "liar": lambda answer: encode(answer._replace(arrays={"result": answer.arrays["result"] * np.float32(1.0001)})),
}


class Bad(Worker):
    tasks = itertools.count(1)  # atomic: messages are handled by several threads

    def handle(self, payload):
        if sys.argv[3] == "freezes":  # with its third task in its hands, which it will not answer
            if decode(payload).kind in ("forward", "backward") and next(self.tasks) == 3:
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(1.0)  # the signal may stop this thread a moment after the others
            return super().handle(payload)
        if sys.argv[3] == "old" and decode(payload).kind == "open":
            worker.versions = lambda: {"kip": "0.0.1"}
        answer = super().handle(payload)
        message = decode(answer)
        return HOW[sys.argv[3]](message) if message.kind == "result" and sys.argv[3] in HOW else answer


if __name__ == "__main__":
    serve(Bad(), (sys.argv[1], int(sys.argv[2])), read_key(None))
