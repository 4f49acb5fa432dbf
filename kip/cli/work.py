"""Commands of a machine that works for another's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from kip.cli.options import DataDir, Json


def worker(
    address: tyro.conf.Positional[str],
    *,
    key_file: Path | None = None,
    data_dir: DataDir = None,
    stax: tuple[str, ...] = (),
    patience: float = 300.0,
    follow: int | None = None,
    json: Json = False,
) -> dict[str, Any]:
    """Compute kernel tiles for a run of --executor zmq or launchpad, until it ends; workers may join and leave.

        kip worker-key gpu-7 --run runs/big
        kip worker 127.0.0.1:7710 --key-file runs/big/keys/workers/gpu-7.json

    Args:
        address: HOST:PORT that the run's --address names.
        key_file: The file that `kip worker-key` made, copied to this machine. The default is the file $KIP_WORKER_KEY.
        data_dir: The folder of NAME.npz files. The default is $KIP_DATA_DIR. Without the data set, its images
            are sent.
        stax: The functions of Stax kernels that may be loaded, as the run's configuration names them.
        patience: The seconds without a server after which this worker gives up.
        follow: The id of a process of this machine. This worker ends soon after that process does.
        json: Print one JSON object with the results as the last line of stdout.
    """
    import logging
    import threading

    from kip.workers import connect
    from kip.workers.keys import read_key
    from kip.workers.worker import Worker

    logging.getLogger(connect.__name__).setLevel(logging.INFO)  # when it joins, what it does, when it leaves
    host, key = connect.parse_address(address), read_key(key_file)
    stop = threading.Event()
    connect.watch(stop, follow)
    served = connect.serve(Worker(data_dir=data_dir, stax=stax), host, key, stop=stop, patience=patience)
    return {"messages": served}


def worker_key(
    name: tyro.conf.Positional[str], *, run: Path, revoke: bool = False, json: Json = False
) -> dict[str, Any]:
    """Make the key with which a worker connects to a run, or revoke it; both also while the run goes on.

        kip worker-key gpu-7 --run runs/big
        kip worker-key gpu-7 --run runs/big --revoke

    Args:
        name: The worker's name in the log and in `kip status`. Processes that share a key are believed, and distrusted,
            as one; so make a key for each machine.
        run: The run's folder. It may be one that `kip distill --out` has still to make.
        revoke: Cut off every worker that has this key, and let nobody connect with it again.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.server.keyring import Keyring

    keyring = Keyring(run)
    if revoke:
        keyring.revoke(name)
        print(f"the key {name} is revoked")
        return {"revoked": name}
    path = keyring.add(name)
    print(path)
    return {"key_file": str(path)}
