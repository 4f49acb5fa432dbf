"""Links to workers in threads of this process, with the faults that tests give them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kip.workers.codec import decode, encode


class ThreadLink:
    """A worker behind a thread; `fault(number, payload, answer)` may change, delay or drop what comes back."""

    def __init__(self, name, worker, fault=None, key=None):
        self.name, self.worker, self.fault = name, worker, fault
        self.key = key or name
        self.threads = ThreadPoolExecutor(4)
        self.asked = []
        self.tasks = 0
        self.lock = threading.Lock()
        self.bytes_in = self.bytes_out = 0

    def send(self, payload, *, most=0):
        return self.threads.submit(self._handle, payload)

    def _handle(self, payload):
        kind = decode(payload).kind
        with self.lock:
            self.asked.append(kind)
            number = self.tasks
            self.tasks += kind in ("forward", "backward")
            self.bytes_in += len(payload)
        answer = self.worker.handle(payload)
        if self.fault and kind in ("forward", "backward"):
            answer = self.fault(number, payload, answer)
        with self.lock:
            self.bytes_out += len(answer)
        return answer

    def close(self, why=""):
        self.why = why
        self.threads.shutdown(wait=False, cancel_futures=True)


def with_result(change):
    """Return a fault that changes the result array of every answer."""

    def fault(number, payload, answer):
        message = decode(answer)
        if message.kind != "result":
            return answer
        return encode(message._replace(arrays={"result": change(np.array(message.arrays["result"]))}))

    return fault


def slow(seconds):
    def fault(number, payload, answer):
        time.sleep(seconds)
        return answer

    return fault


def broken(number, payload, answer):
    raise ConnectionError("the wire was cut")
