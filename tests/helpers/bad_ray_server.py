"""A run on ray's actors, of which one lies and one is old: `python bad_ray_server.py CONFIG OUT WORKERS`."""

import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np

import kip
from kip.server import ray, service
from kip.server.executor import RemoteExecutor
from kip.workers.codec import decode, encode


class Changed:
    """A link whose messages or answers are changed on their way."""

    def __init__(self, link, name, *, message=lambda message: message, answer=lambda answer: answer):
        self.key = name
        self.link, self.name, self.message, self.answer = link, name, message, answer

    def send(self, payload, *, most=0):
        changed, answer = Future(), self.link.send(encode(self.message(decode(payload))))

        def done(future):
            try:
                changed.set_result(encode(self.answer(decode(future.result()))))
            except Exception as error:
                changed.set_exception(error)

        answer.add_done_callback(done)
        return changed

    def close(self, why=""):
        self.link.close(why)


def lie(answer):
    if answer.kind != "result":
        return answer
    return answer._replace(arrays={"result": answer.arrays["result"] * np.float32(1.0001)})


def of_another_version(message):
    if message.kind != "open":
        return message
    return message._replace(fields={**message.fields, "versions": {"kip": "0.0.1"}})


if __name__ == "__main__":
    made, out = kip.load_experiment(sys.argv[1]), Path(sys.argv[2])
    links, close = ray.links(int(sys.argv[3]) + 2)
    links[0] = Changed(links[0], "liar", answer=lie)
    links[1] = Changed(links[1], "old", message=of_another_version)
    with service.log_file(out):
        executor = RemoteExecutor(
            links, **service.introduction(made, None), on_tick=service.StatusFile(out), on_close=close
        )
        service.run(made, out, executor, show_progress=False)
