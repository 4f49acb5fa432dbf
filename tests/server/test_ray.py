"""A Ray cluster that wants certificates and a token: a run on it, and those who have neither. Real processes."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

import kip
from helpers import processes
from helpers.kinds import untyped

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make certificates with"),
]


def make_certificates(folder):
    """Make an authority, and a certificate for 127.0.0.1 that it has signed; return Ray's variables for them."""
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for arguments in (
        "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=authority -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout node.key -out node.csr",
        "x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -extfile names -out node.crt",
    ):
        subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on loopback
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "node.crt"),
        "RAY_TLS_SERVER_KEY": str(folder / "node.key"),
        "RAY_TLS_CA_CERT": str(folder / "ca.crt"),
    }


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """What a process needs to take part in the cluster."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 64 * "a"}
    return make_certificates(tmp_path_factory.mktemp("certificates")), token


@pytest.fixture(scope="module")
def cluster(secrets):
    """A cluster of one machine on loopback, as `ray start` makes it; its address."""
    tls, token = secrets
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address", "127.0.0.1",
        "--port", str(port), "--num-cpus", "2", "--include-dashboard", "false", "--disable-usage-stats",
    ]  # fmt: skip
    environment = {**os.environ, **tls, **token}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, "the cluster did not start"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def distill(config, out, address, environment, seconds=300):
    command = [sys.executable, "-m", "kip.cli", "distill", str(config), "--out", str(out), "--executor", "ray"]
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [*command, "--workers", "2", "--address", address],
        env={**without, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(
        "import kip\n"
        "method = kip.KIP(1, steps=4, target_batch=150, kernels=(kip.Architecture('FC', 1),))\n"
        "config = kip.Experiment(method, checkpoint_every=2)\n"
    )
    return path


def test_a_run_on_a_cluster_with_certificates_and_a_token_has_the_local_runs_bits(cluster, secrets, config, tmp_path):
    expected = processes.run_locally(kip.load_experiment(str(config)), tmp_path / "local")
    done = distill(config, tmp_path / "run", cluster, {**secrets[0], **secrets[1]})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "distilled.npz").read_bytes() == expected


@pytest.mark.parametrize("lacks", ["certificates", "token"])
def test_who_lacks_the_certificates_or_the_token_has_no_part_in_it(cluster, secrets, config, tmp_path, lacks):
    tls, token = secrets
    given = token if lacks == "certificates" else {**tls, **token, "RAY_AUTH_TOKEN": 64 * "b"}
    with pytest.raises((AssertionError, subprocess.TimeoutExpired)) as refusal:  # without TLS Ray goes on trying
        assert distill(config, tmp_path / "run", cluster, given, seconds=40).returncode == 0
    if refusal.type is subprocess.TimeoutExpired:
        assert b"Failed to connect to GCS" in untyped(refusal.value).stderr
    assert not (tmp_path / "run" / "distilled.npz").exists()
