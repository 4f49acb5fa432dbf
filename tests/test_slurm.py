"""The scripts for Slurm are linted, and run with stand-ins for its commands: requeued, they end in the same bits."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.waiting import wait_until
from kip.storage.json_files import read_rows

SCRIPTS = Path(__file__).resolve().parents[1] / "examples" / "slurm"
SRUN = """#!/bin/bash
# As many processes as --ntasks says, on this machine. Their ids go into the file `pids`.
tasks=${SLURM_NTASKS:-1}
while [[ $1 == -* ]]; do
    [[ $1 == --ntasks=* ]] && tasks=${1#*=}
    shift
done
if ((tasks == 1)); then
    echo $BASHPID >> "$STAND_IN/pids"
    SLURM_PROCID=0 exec "$@"
fi
for ((task = 0; task < tasks; task++)); do
    SLURM_PROCID=$task "$@" &
done
wait
"""
SCONTROL = """#!/bin/bash
[[ $1 == requeue ]] && echo "$2" >> "$STAND_IN/requeued"
[[ $1 == show ]] && echo 127.0.0.1
exit 0
"""
OUTPUT = "slurm.out"
CONFIG = """
import kip
config = kip.Experiment(
    kip.KIP(1, kernels=(kip.Architecture("FC", 1),), target_batch=100, steps=STEPS), checkpoint_every=100
)
"""


@pytest.fixture
def cluster(tmp_path):
    """Return a function that starts a script in a folder of its own, as Slurm does for a job."""
    (tmp_path / "bin").mkdir()
    kip = f"#!/bin/bash\nexec '{sys.executable}' -m kip.cli \"$@\"\n"
    python = f"#!/bin/bash\nexec '{sys.executable}' \"$@\"\n"
    ray = f"#!/bin/bash\nexec '{Path(sys.executable).with_name('ray')}' \"$@\"\n"
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "kip": kip, "python": python, "ray": ray}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "STAND_IN": str(tmp_path),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node",
    }

    def start(script, *arguments, **variables):
        for name in ("requeued", "pids"):
            (tmp_path / name).unlink(missing_ok=True)
        with (tmp_path / OUTPUT).open("w") as output:  # no pipe, which steps that outlive the script would keep open
            return subprocess.Popen(
                ["bash", SCRIPTS / script, *arguments],
                cwd=tmp_path,
                env={**environment, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    return start


def config(folder, steps):
    path = folder / "short.py"
    path.write_text(CONFIG.replace("STEPS", str(steps)))
    return path.name


def ended(job, folder, status=0):
    """Wait for a job's end; return what it said."""
    job.wait(timeout=300)
    output = (folder / OUTPUT).read_text()
    assert job.returncode == status, output
    return output


def run_of(folder):
    (result,) = folder.glob("runs/*/result.json")
    return result.parent


def test_the_scripts_have_no_fault_that_a_linter_knows():
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "pip install -e '.[test]' brings it"
    done = subprocess.run([program, *sorted(SCRIPTS.glob("*.sh"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_job_on_one_node_runs_to_its_end_and_is_not_queued_again(cluster, tmp_path):
    ended(cluster("one_node.sh", config(tmp_path, steps=5)), tmp_path)
    assert run_of(tmp_path).name == "short.py"
    assert not (tmp_path / "requeued").exists()


def test_a_job_that_fails_is_not_queued_again(cluster, tmp_path):
    assert "no_such_config" in ended(cluster("one_node.sh", "no_such_config"), tmp_path, status=2)
    assert not (tmp_path / "requeued").exists()


@pytest.mark.slow
def test_each_job_of_an_array_takes_its_row(cluster, tmp_path):
    # The run is refused before its first step, so that this takes seconds; the refusal names the row.
    found = subprocess.run([tmp_path / "bin" / "kip", "configs", "table_1:mnist"], capture_output=True, text=True)
    rows = [line.split()[0] for line in found.stdout.splitlines()]
    (tmp_path / "bin" / "srun").write_text('#!/bin/bash\necho "$@"\n')
    for place in (1, len(rows)):
        said = ended(cluster("rows.sh", "table_1:mnist", SLURM_ARRAY_TASK_ID=str(place)), tmp_path)
        row = rows[place - 1]
        assert f"kip distill {row} --out runs/{row.replace(':', '-')}" in said
    beyond = cluster("rows.sh", "table_1:mnist", SLURM_ARRAY_TASK_ID=str(len(rows) + 1))
    assert "no row" in ended(beyond, tmp_path, status=2)


@pytest.mark.slow
def test_a_job_that_is_stopped_ten_times_ends_in_the_same_bits(cluster, tmp_path):
    """Slurm's warning before the limit and its signal at a preemption, at random moments of the run."""
    name, draw = config(tmp_path, steps=800), random.Random(0)
    run, stops, seconds = tmp_path / "runs" / name, 0, []
    while stops < 10:
        job = cluster("one_node.sh", name)
        before = len(rows(run))
        wait_until(lambda job=job, before=before: len(rows(run)) > before + 1 or job.poll() is not None)
        time.sleep(draw.uniform(0, 0.3))
        pid = int((tmp_path / "pids").read_text())
        number = draw.choice([signal.SIGUSR1, signal.SIGTERM])
        began = time.monotonic()
        os.kill(pid, number)
        ended(job, tmp_path, 128 + number)
        seconds.append(time.monotonic() - began)
        assert (tmp_path / "requeued").read_text().split() == [str(os.getpid())]
        stops += 1
    print(f"from the signal to the end: {max(seconds):.1f} s at most, {sum(seconds) / 10:.1f} s on average")
    ended(cluster("one_node.sh", name), tmp_path)
    stopped = (run / "distilled.npz").read_bytes()
    shutil.move(tmp_path / "runs", tmp_path / "stopped")
    ended(cluster("one_node.sh", name), tmp_path)
    assert (run / "distilled.npz").read_bytes() == stopped


@pytest.mark.slow
def test_workers_of_a_job_give_the_bits_of_one_node(cluster, tmp_path):
    name = config(tmp_path, steps=30)
    said = ended(cluster("workers.sh", name, SLURM_NTASKS="2"), tmp_path)
    assert said.count("joined the run at 127.0.0.1") == 2
    assert said.count("left 127.0.0.1") == 2
    assert (tmp_path / "runs" / name / "keys" / "workers" / "slurm-1.json").exists()
    spread = (run_of(tmp_path) / "distilled.npz").read_bytes()
    shutil.move(tmp_path / "runs", tmp_path / "spread")
    ended(cluster("one_node.sh", name), tmp_path)
    assert (run_of(tmp_path) / "distilled.npz").read_bytes() == spread


@pytest.mark.slow
def test_a_job_with_ray_gives_the_bits_of_one_node(cluster, tmp_path):
    pytest.importorskip("ray")
    name = config(tmp_path, steps=5)
    try:
        ended(cluster("ray.sh", name, "2", SLURM_JOB_NUM_NODES="1"), tmp_path)
    finally:  # Slurm ends the steps of a job that is over
        head = int((tmp_path / "pids").read_text().split()[0])
        os.kill(head, signal.SIGTERM)
        wait_until(lambda: not is_alive(head))
    spread = (run_of(tmp_path) / "distilled.npz").read_bytes()
    shutil.move(tmp_path / "runs", tmp_path / "spread")
    ended(cluster("one_node.sh", name), tmp_path)
    assert (run_of(tmp_path) / "distilled.npz").read_bytes() == spread


def rows(run):
    return read_rows(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
