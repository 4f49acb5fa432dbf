"""The outbox that wakes the thread of a socket."""

import select

import pytest

from kip.workers.wire import Outbox


class Reader:
    """The reading end of an outbox, before whose first reading another thread leaves an item."""

    def __init__(self, outbox, end):
        self._outbox, self._end, self._is_first = outbox, end, True

    def recv(self, size):
        if self._is_first:
            self._is_first = False
            self._outbox.put("second")
        return self._end.recv(size)

    def fileno(self):
        return self._end.fileno()

    def close(self):
        self._end.close()


@pytest.fixture
def outbox():
    box = Outbox()
    yield box
    box.close()


def is_woken(outbox):
    return bool(select.select([outbox], [], [], 0)[0])


def test_an_item_that_comes_while_others_are_taken_lets_later_ones_wake_the_owner(outbox, monkeypatch):
    monkeypatch.setattr(outbox, "_reader", Reader(outbox, outbox._reader))
    outbox.put("first")
    assert is_woken(outbox)
    assert outbox.take() == ["first", "second"]
    outbox.put("third")
    assert is_woken(outbox)
    assert outbox.take() == ["third"]
    assert not is_woken(outbox)
