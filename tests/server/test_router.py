"""Who may connect to a server, and what strangers cannot do: real sockets on loopback, with bounded loops."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zmq

from helpers.kinds import some
from helpers.waiting import wait_until
from kip.errors import ConfigError, MessageError, WorkerError
from kip.server import router as routing
from kip.server.keyring import Keyring
from kip.server.router import Router
from kip.workers import connect, wire
from kip.workers.keys import read_key


class Echo:
    """A worker that gives back what it gets, and counts it."""

    def __init__(self):
        self.seen = []

    def handle(self, payload):
        self.seen.append(payload)
        return payload

    def close(self):
        pass


class Server:
    """A router with its links, and workers in threads of this process."""

    def __init__(self, folder, keyring=True):
        self.keyring = Keyring(folder) if keyring else None
        self.links, self.left = {}, []
        self.stop = threading.Event()
        self.threads = []
        self.start()

    def start(self, port=0):
        self.router = Router(self.keyring, port=port)
        self.router.open(lambda link: self.links.update({link.name: link}), self.leave)

    def leave(self, name):
        self.left.append(name)
        self.links.pop(name, None)

    def worker(self, key_file, patience=20.0, worker=None):
        """Start a worker; return a function that waits for its end and returns what came of it."""
        outcome = []

        def run():
            try:
                key = key_file and read_key(key_file)
                served = connect.serve(worker or Echo(), self.router.address, key, stop=self.stop, patience=patience)
                outcome.append(served)
            except WorkerError as error:
                outcome.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)

        def result():
            thread.join(60)
            return outcome[0]

        return result

    def close(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(10)
        self.router.close()


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    made.close()


def refusals(caplog):
    return [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]


def test_messages_come_back_under_the_name_of_the_key(server):
    server.worker(server.keyring.add("gpu-7"))
    server.worker(server.keyring.add("gpu-7"))
    wait_until(lambda: len(server.links) == 2)
    assert set(server.links) == {"gpu-7", "gpu-7/2"}
    answers = [link.send(bytes([number]) * 3000) for number in range(50) for link in server.links.values()]
    assert [answer.result(10) for answer in answers] == [bytes([n]) * 3000 for n in range(50) for _ in range(2)]


def test_key_files_are_their_owners_alone(server, tmp_path):
    path = server.keyring.add("a")
    for file in (path, server.keyring.folder / "server.json"):
        assert file.stat().st_mode & 0o077 == 0
        assert file.parent.stat().st_mode & 0o077 == 0
    assert server.keyring.add("a") == path
    assert Keyring(tmp_path).public == server.keyring.public, "the keys outlive the server"
    for name in ("", "../a", "a/b", ".a", "a" * 200):
        with pytest.raises(ConfigError, match="name of a worker's key"):
            server.keyring.add(name)


def test_a_key_of_the_run_that_is_not_authorised_is_refused_and_both_sides_say_so(server, tmp_path, caplog):
    path = server.keyring.add("gone")
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    path.unlink()
    assert "does not know this key" in str(server.worker(copy)())
    wait_until(lambda: any("its key is not known" in line for line in refusals(caplog)))
    assert not server.links


def test_a_revoked_key_is_cut_off_while_it_works_and_refused_by_name_from_then_on(server, tmp_path, caplog):
    path = server.keyring.add("gpu-7")
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    result = server.worker(path)
    server.worker(server.keyring.add("other"))
    wait_until(lambda: len(server.links) == 2)
    server.keyring.revoke("gpu-7")
    wait_until(lambda: "gpu-7" not in server.links)
    assert "revoked" in str(result())
    assert "revoked" in str(server.worker(copy)())
    wait_until(lambda: any("its key 'gpu-7' was revoked" in line for line in refusals(caplog)))
    assert any("worker gpu-7 is cut off" in record.getMessage() for record in caplog.records)
    assert server.links["other"].send(b"x").result(10) == b"x"
    with pytest.raises(ConfigError, match="was revoked"):
        server.keyring.add("gpu-7")


def test_a_worker_of_another_run_or_without_a_key_is_refused_and_the_log_says_which(server, tmp_path, caplog):
    def refused(key, words):
        """Return what a worker says that is refused in these words; a busy machine gets longer for the handshake."""
        for patience in (1.5, 5.0, 20.0):
            outcome = server.worker(key, patience=patience)()
            if any(words in line for line in refusals(caplog)):
                return str(outcome)
        raise AssertionError(f"no refusal says: {words}")

    another = Keyring(tmp_path / "another").add("gpu-7")
    assert "no server of this key" in refused(another, "another run's server")
    refused(None, "it has no key")
    assert not server.links


def test_a_worker_before_a_mute_server_gives_up_with_an_error():
    """Nobody listens; somebody listens and says nothing; somebody listens and says rubbish."""
    for says in (None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10):
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            address = listening.getsockname()[:2]
            if says is None:
                listening.close()
            elif says:
                threading.Thread(target=answer_all, args=(listening, says), daemon=True).start()
            key = Keyring(Path(stack.enter_context(temporary()))).add("a")
            start = time.monotonic()
            with pytest.raises(WorkerError, match="no server of this key at"):
                connect.serve(Echo(), address, read_key(key), patience=1.0)
            assert time.monotonic() - start < 5


def temporary():
    import tempfile

    return tempfile.TemporaryDirectory()


def answer_all(listening, says):
    with contextlib.suppress(OSError):
        for _ in range(100):
            peer, _ = listening.accept()
            with peer, contextlib.suppress(OSError):
                peer.sendall(says)


def test_a_worker_finds_a_server_that_starts_again_and_old_answers_count_for_nothing(server):
    slow = Echo()
    let_go = threading.Event()
    slow.handle = lambda payload: let_go.wait(20) and payload
    server.worker(server.keyring.add("a"), worker=slow)
    wait_until(lambda: server.links)
    lost = server.links["a"].send(b"of the first life")
    port = server.router.address[1]
    server.router.close()
    with pytest.raises(ConnectionError):
        lost.result(5)
    server.links.clear()
    server.start(port)
    wait_until(lambda: server.links, 15)
    answer = server.links["a"].send(b"of the second")
    let_go.set()
    assert answer.result(10) == b"of the second"


def test_a_worker_that_is_sent_away_ends_with_the_reason_and_one_that_is_let_go_without(server):
    results = [server.worker(server.keyring.add(name)) for name in ("a", "b")]
    wait_until(lambda: len(server.links) == 2)
    server.links["a"].close("its kip is too old")
    server.links["b"].close()
    assert "its kip is too old" in str(results[0]())
    assert results[1]() == 0
    wait_until(lambda: not server.links)
    assert sorted(server.left) == ["a", "b"]


@pytest.mark.parametrize("turn", range(4))
def test_all_workers_hear_that_they_are_to_stop_when_the_server_ends(server, turn):
    """Some waited for the server's next life: what they had sent and nobody read undid the word to stop."""
    results = [server.worker(server.keyring.add("a")) for _ in range(3)]
    wait_until(lambda: len(server.links) == 3)
    for answer in [link.send(bytes(3_000_000)) for link in server.links.values()]:
        answer.result(20)
    for link in list(server.links.values()):
        link.close()
    server.router.close()
    assert [result() for result in results] == [1, 1, 1]


def test_a_frame_that_is_too_long_or_makes_no_sense_costs_its_sender_only(server, monkeypatch):
    server.worker(server.keyring.add("good"))
    wait_until(lambda: server.links)
    key = read_key(server.keyring.add("bad"))
    with zmq.Context() as context, context.socket(zmq.DEALER) as bad:
        bad.curve_serverkey = key.server.encode()
        bad.curve_publickey, bad.curve_secretkey = key.public.encode(), key.secret.encode()
        bad.probe_router, bad.linger = 1, 0
        bad.connect(wire.endpoint(*server.router.address))
        wait_until(lambda: "bad" in server.links)
        for frames in ([b"x"], [b""], [b"12345678", b"an answer to nothing"], [b"1"] * 9, [b"", b"x" * 70_000]):
            for _ in range(200):
                bad.send_multipart(frames)
        assert server.links["good"].send(b"y").result(10) == b"y"


def test_an_exchange_holds_no_readable_bytes_and_a_plain_one_does(tmp_path):
    """What passes through a socket between the two is written down."""
    secret = b"the pixels of an image, " * 100
    for keyring in (True, False):
        server = Server(tmp_path / str(keyring), keyring)
        passed = bytearray()
        with socket.create_server(("127.0.0.1", 0)) as between:
            threading.Thread(target=pass_on, args=(between, server.router.address, passed), daemon=True).start()
            real, server.router.address = server.router.address, between.getsockname()[:2]
            server.worker(server.keyring and server.keyring.add("a"))
            wait_until(lambda server=server: server.links)
            assert next(iter(server.links.values())).send(secret).result(10) == secret
            server.router.address = real
            server.close()
        assert len(passed) > 2 * len(secret)
        assert (b"pixels" in passed) is not keyring


def pass_on(between, address, passed):
    peer, _ = between.accept()
    with peer, socket.create_connection(address) as server:

        def copy(source, sink):
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    passed.extend(data)
                    sink.sendall(data)

        threads = [threading.Thread(target=copy, args=ends, daemon=True) for ends in ((peer, server), (server, peer))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)


def test_an_address_that_is_taken_is_named(server, tmp_path):
    with pytest.raises(ConfigError, match="cannot listen on 127"):
        Router(Keyring(tmp_path), port=server.router.address[1])


FLOOD = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
sys.path[:0] = {paths!r}
import os
from pathlib import Path
from kip.server.keyring import Keyring
from kip.server.router import Router
def memory(): return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
keyring = Keyring(Path(sys.argv[1]))
keyring.add("honest")
links = []
router = Router(keyring)
router.open(links.append, lambda name: None)
print(router.address[1], memory(), flush=True)
most = 0
for _ in range(6000):
    most = max(most, len(os.listdir("/proc/self/fd")))
    open(sys.argv[1] + "/still", "w").close()  # what a run does all the time
    if links:
        break
    time.sleep(0.01)
print(links[0].send(b"x").result(20) == b"x", most, memory(), flush=True)
router.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("strangers", [600, 2000])
def test_strangers_who_say_nothing_do_not_keep_an_honest_worker_out(tmp_path, strangers, record_property):
    """The server may have 1024 descriptors; the strangers come in processes of their own, and stay."""
    code = FLOOD.format(paths=[path for path in sys.path if path])
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    port, before = map(int, some(process.stdout).readline().split())
    half_open = []
    try:
        for number in range(strangers):
            with contextlib.suppress(OSError):
                half_open.append(socket.create_connection(("127.0.0.1", port), timeout=5))
                if number % 3 == 0:
                    half_open[-1].sendall(b"\xff")  # the first byte of a greeting
        start = time.monotonic()
        key = read_key(tmp_path / "keys" / "workers" / "honest.json")
        stop = threading.Event()
        thread = threading.Thread(
            target=connect.serve, args=(Echo(), ("127.0.0.1", port), key), kwargs={"stop": stop}, daemon=True
        )
        thread.start()
        works, most, after = some(process.stdout).readline().split()
        seconds = time.monotonic() - start
        stop.set()
        thread.join(10)
        assert process.wait(20) == 0
    finally:
        process.kill()
        for each in half_open:
            each.close()
    print(f"\n{len(half_open)} strangers: {seconds:.2f} s, {most} descriptors, {before} -> {after} KiB")
    assert works == "True"
    assert seconds < 20
    assert int(most) < 1000
    assert int(after) - before < 50_000
    assert routing.NEWCOMERS < 1024 // 4


# What strangers and holders of keys can send

GREETING = b"\xff" + 8 * b"\0" + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\0" + 31 * b"\0"
"""The greeting of ZMTP 3.1 with the CURVE mechanism."""


def memory():
    """Return the megabytes of this process's memory that it has touched."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc says how much memory there is")
def test_long_frames_of_strangers_take_no_memory(server):
    """128 strangers began frames of a gigabyte each, and the server took in 3.2 GiB."""
    server.worker(server.keyring.add("honest"))
    wait_until(lambda: server.links)
    before, strangers = memory(), []
    try:
        for number in range(8):
            stranger = socket.create_connection(server.router.address, timeout=5)
            strangers.append(stranger)
            stranger.sendall(GREETING)
            with contextlib.suppress(OSError):  # cut off while it sends
                stranger.sendall(bytes([2 if number % 2 else 6]) + (1 << 30).to_bytes(8, "big"))  # a message, a command
                for _ in range(64):
                    stranger.sendall(bytes(1 << 20))
        assert server.links["honest"].send(b"x").result(20) == b"x"
        assert memory() - before < 150  # 512 MB were sent
    finally:
        for stranger in strangers:
            stranger.close()
    assert routing.NEWCOMERS * wire.MOST < 64e6


def test_an_answer_that_is_longer_than_it_may_be_is_refused_at_its_first_part(server):
    long = Echo()
    long.handle = lambda payload: bytes(5_000_000)
    server.worker(server.keyring.add("a"), worker=long)
    wait_until(lambda: server.links)
    link = server.links["a"]
    with pytest.raises(MessageError, match="too long; got 5000000 bytes; expected 1000 at most"):
        link.send(b"x", most=1000).result(10)
    assert link.send(b"x", most=5_000_000).result(10) == bytes(5_000_000), "longer ones than a frame come through"
    assert not link.assembly._begun


class Raw:
    """A connection with a key that sends what it likes."""

    def __init__(self, server, name):
        key = read_key(server.keyring.add(name))
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.curve_serverkey = key.server.encode()
        self.socket.curve_publickey, self.socket.curve_secretkey = key.public.encode(), key.secret.encode()
        self.socket.probe_router, self.socket.linger, self.socket.rcvtimeo = 1, 0, 10_000
        self.socket.connect(wire.endpoint(*server.router.address))
        wait_until(lambda: name in server.links)

    def question(self):
        """Return the number and the bytes of what the server asks."""
        head, part = self.socket.recv_multipart()
        return wire.HEAD.unpack(head)[0], part

    def answer(self, number, left, part):
        self.socket.send_multipart([wire.HEAD.pack(number, left), part])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.socket.close()
        self.context.term()


def test_answers_that_come_again_or_in_wrong_parts_or_never_end_count_for_nothing(server):
    server.worker(server.keyring.add("good"))
    wait_until(lambda: "good" in server.links)
    with Raw(server, "bad") as bad:
        link = server.links["bad"]
        first = link.send(b"1")
        number, _ = bad.question()
        for part in (b"the answer", b"a replayed one", b"another"):
            bad.answer(number, 0, part)
        assert first.result(10) == b"the answer"
        second = link.send(b"2")
        following, _ = bad.question()
        bad.answer(number, 0, b"the answer")  # once more, late
        bad.answer(following, 5, b"begun")
        bad.answer(following, 5, b"begun")  # it does not follow
        with pytest.raises(MessageError, match="does not follow"):
            second.result(10)
        drip = link.send(b"3", most=100)
        number, _ = bad.question()
        for left in range(99, 49, -1):
            bad.answer(number, left, b".")
        assert server.links["good"].send(b"y").result(10) == b"y"
        wait_until(lambda: link.assembly._left == {number: 50})
        assert not drip.done()
        assert sum(map(len, link.assembly._begun[number])) == 50
    with pytest.raises(ConnectionError):
        drip.result(10)


def test_a_key_has_so_many_connections_and_no_more(server, monkeypatch):
    monkeypatch.setattr(routing, "OF_ONE_KEY", 2)
    path = server.keyring.add("a")
    for _ in range(4):
        server.worker(path)
    server.worker(server.keyring.add("b"))
    wait_until(lambda: "b" in server.links and len(server.links) == 3)
    time.sleep(0.5)  # the others try again
    assert sum(link.key == "a" for link in server.links.values()) == 2


def test_bytes_that_are_sent_again_on_the_way_are_refused_and_change_nothing(server, caplog):
    """Who sits between the two repeats what a worker sends; CURVE counts messages, and reads no more of that one."""
    with socket.create_server(("127.0.0.1", 0)) as between:
        repeat = threading.Event()
        threading.Thread(target=repeat_on, args=(between, server.router.address, repeat), daemon=True).start()
        real, server.router.address = server.router.address, between.getsockname()[:2]
        server.worker(server.keyring.add("a"))
        wait_until(lambda: server.links)
        server.router.address = real
        link = server.links["a"]
        assert link.send(b"x").result(10) == b"x"
        repeat.set()
        assert link.send(b"y").result(10) == b"y"
        wait_until(lambda: any("it speaks another protocol" in line for line in refusals(caplog)))
        assert not link.waiting
        server.worker(server.keyring.add("b"))
        wait_until(lambda: "b" in server.links)
        assert server.links["b"].send(b"z").result(10) == b"z"


def repeat_on(between, address, repeat):
    """Pass on what comes, and twice what comes from the worker once `repeat` is set."""
    peer, _ = between.accept()
    with peer, socket.create_connection(address) as server:

        def copy(source, sink, twice):
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(2 * data if twice and repeat.is_set() else data)
                sink.shutdown(socket.SHUT_RDWR)

        threads = [
            threading.Thread(target=copy, args=(*ends, ends[0] is peer), daemon=True)
            for ends in ((peer, server), (server, peer))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)


def test_a_key_file_that_others_can_read_or_that_is_a_link_gives_a_warning_and_a_pipe_is_refused(tmp_path, caplog):
    path = Keyring(tmp_path).add("a")
    read_key(path)
    assert not caplog.messages
    path.chmod(0o644)
    read_key(path)
    assert "can be read by others than its owner" in caplog.text
    path.chmod(0o622)
    read_key(path)
    assert "can be changed by others than its owner" in caplog.text
    path.chmod(0o600)
    caplog.clear()
    link = tmp_path / "link.json"
    link.symlink_to(path)
    assert read_key(link) == read_key(path)
    assert f"is a link to {path}" in caplog.text
    os.mkfifo(tmp_path / "pipe")
    for no_file in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match="is no regular file"):
            read_key(no_file)


def test_a_worker_is_told_whether_its_key_is_wrong_or_nobody_is_there(server, tmp_path):
    """Of a key of another run it was said that no connection came about."""
    another = Keyring(tmp_path / "another").add("a")
    assert "the server there is another run's: it ends the connection at this key" in str(server.worker(another, 2.0)())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()[:2]
        with pytest.raises(WorkerError, match="something listens there that does not complete the handshake"):
            connect.serve(Echo(), address, read_key(another), patience=1.0)
    with pytest.raises(WorkerError, match="nobody listens there"):
        connect.serve(Echo(), address, read_key(another), patience=1.0)


def test_each_local_worker_has_a_key_of_its_own_and_none_that_lied(tmp_path):
    (tmp_path / "trust.json").write_text(
        '{"keys": {"local-1": {"unchecked": 0, "base": null, "distrusted": "it lied"}}}'
    )
    keyring = Keyring(tmp_path)
    assert [path.stem for path in keyring.local(3)] == ["local-0", "local-2", "local-3"]
    keyring.revoke("local-0")
    assert [path.stem for path in keyring.local(2)] == ["local-2", "local-3"]
