"""A worker process that lies, freezes, is mute or old: `bad_worker.py HOST PORT HOW`, its key in $KIP_WORKER_KEY."""

import itertools
import os
import signal
import sys
import threading
import time

import numpy as np

from kip.errors import WorkerError
from kip.workers import worker
from kip.workers.codec import decode, encode
from kip.workers.connect import serve
from kip.workers.keys import read_key
from kip.workers.worker import Worker

HOW = {
    "nan": lambda answer: encode(answer._replace(arrays={"result": answer.arrays["result"] * np.nan})),
    "shape": lambda answer: encode(answer._replace(arrays={"result": answer.arrays["result"][1:]})),
    "truncated": lambda answer: encode(answer)[:-5],
    "returns": lambda answer: HOW["liar"](answer),
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
        if sys.argv[3] == "mute" and decode(payload).kind in ("forward", "backward"):
            threading.Event().wait()
        if sys.argv[3] == "old" and decode(payload).kind == "open":
            worker.versions = lambda: {"kip": "0.0.1"}
        answer = super().handle(payload)
        message = decode(answer)
        return HOW[sys.argv[3]](message) if message.kind == "result" and sys.argv[3] in HOW else answer


if __name__ == "__main__":
    address, key = (sys.argv[1], int(sys.argv[2])), read_key(None)
    while sys.argv[3] == "returns":  # a liar that comes back each time that it is sent away, until nobody is there
        try:
            serve(Bad(), address, key, patience=60.0)
        except WorkerError as error:
            if error.code != "dismissed":
                raise
            time.sleep(0.3)
    serve(Bad(), address, key)
