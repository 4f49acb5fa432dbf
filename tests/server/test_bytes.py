"""Bytes on the wire for a step of the paper's size, counted on messages that are really made."""

import time

import numpy as np
import pytest

from helpers import links
from kip.blocks import Blocks, KernelBlocks, Source
from kip.kernels import Architecture
from kip.server.executor import RemoteExecutor
from kip.server.member import Settings
from kip.workers.codec import Message, decode, encode

SUPPORT, TARGET, IMAGE = 100, 5000, (32, 32, 3)
MOST = 3_000_000


class Pretender:
    """Answers as a worker that holds the data set, with zeros of the right shape: only the bytes matter here."""

    def handle(self, payload):
        message = decode(payload)
        if message.kind in ("open", "begin"):
            fields = {"open": {"holds": True}, "begin": {"epoch": message.fields.get("epoch")}}[message.kind]
            return encode(Message({"open": "opened", "begin": "begun"}[message.kind], fields))
        _, top, bottom, left, right = message.fields["task"]
        time.sleep(5e-7 * (bottom - top) * (right - left))
        shape = (bottom - top, right - left) if message.kind == "forward" else (right - left, *IMAGE)
        return encode(Message("result", {"epoch": message.fields["epoch"]}, {"result": np.zeros(shape, np.float32)}))


def step(workers, known=True):
    made = [links.ThreadLink(str(number), Pretender()) for number in range(workers)]
    support, target = np.zeros((SUPPORT, *IMAGE), np.float32), np.zeros((TARGET, *IMAGE), np.float32)
    source = Source("train", np.arange(TARGET), 0) if known else None
    with RemoteExecutor(made, settings=Settings(check_share=0.0)) as executor:  # its zeros are no results
        blocks = KernelBlocks(Blocks(), executor)
        blocks.forward(Architecture("ConvNet"), support, target, source=source)
        blocks.backward(np.zeros((SUPPORT, SUPPORT)), np.zeros((TARGET, SUPPORT)))
    return made


def test_a_step_of_the_papers_size_takes_less_than_three_megabytes_to_and_from_each_of_four_workers(record_property):
    """From each on the mean: who is faster sends more."""
    made = step(4)
    to, back = [link.bytes_in for link in made], [link.bytes_out for link in made]
    record_property("bytes to each worker", to)
    record_property("bytes from each worker", back)
    print(f"\nto each: {to}, from each: {back}")
    assert sum(link.tasks for link in made) > 100
    assert max(to) <= MOST
    assert sum(back) <= 2.5 * MOST
    assert min(to) > SUPPORT * 32 * 32 * 3 * 4, "the support images did travel"


def test_it_is_a_small_part_of_what_pixels_with_every_tile_would_take():
    """An 18 x 18 tile, as on the paper's GPU, would bring 36 images and take 18 back."""
    tiles = -(-TARGET // 18) * -(-SUPPORT // 18)
    image = 32 * 32 * 3 * 4
    with_every_tile = tiles * (2 * 36 + 18) * image
    ours = sum(link.bytes_in + link.bytes_out for link in step(4))
    assert with_every_tile > 50 * ours


@pytest.mark.parametrize("workers", [1, 4])
def test_targets_that_the_workers_do_not_hold_are_sent_once_a_step(workers):
    sent = sum(link.bytes_in for link in step(workers, known=False))
    once = workers * (TARGET + SUPPORT) * 32 * 32 * 3 * 4
    assert once < sent < once + TARGET * SUPPORT * 4 + workers * 100_000 + 1_000_000
