#!/bin/bash
# One run on many nodes with Ray: a head on the first node, the others join, and each GPU is an actor's.
#
#   sbatch ray.sh table_1:cifar10_ipc10_kip
#
#SBATCH --job-name=kip
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
config=$1
run=runs/${config//:/-}
workers=${2:-$((8 * SLURM_JOB_NUM_NODES))}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') # other users reach the port too
export RAY_AUTH_MODE RAY_AUTH_TOKEN

trap : TERM USR1
srun --overlap --nodes=1 --ntasks=1 --nodelist="$first" \
    ray start --head --node-ip-address="$first" --port="$port" --block &
if ((SLURM_JOB_NUM_NODES > 1)); then
    srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$first" \
        ray start --address="$first:$port" --block &
fi
# The actors share out the GPUs of the nodes that are there when the run begins.
python - "$first:$port" "$SLURM_JOB_NUM_NODES" << 'END' || exit
import sys, time
import ray

for patience in range(60):
    try:
        ray.init(address=sys.argv[1], log_to_driver=False)
        break
    except ConnectionError:
        time.sleep(2)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(1)
END

srun --overlap --nodes=1 --ntasks=1 --nodelist="$first" \
    kip distill "$config" --out "$run" --executor ray --workers "$workers" --address "$first:$port"
status=$?
case $status in
    129 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit $status
