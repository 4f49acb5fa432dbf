#!/bin/bash
# One run on many nodes: a server on the first, and a worker for each GPU of all nodes, over kip's own encrypted
# messages. A worker may die: its tasks run elsewhere.
#
#   sbatch workers.sh table_1:cifar10_ipc10_kip
#
#SBATCH --job-name=kip
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
config=$1
run=runs/${config//:/-}                                            # a folder that every node sees
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) # the node of this script
port=$((20000 + SLURM_JOB_ID % 10000))

for ((task = 0; task < SLURM_NTASKS; task++)); do
    kip worker-key "slurm-$task" --run "$run" || exit # a key that is there stays as it is
done

# Each worker takes the key of its task, and waits for the server.
# shellcheck disable=SC2016
srun --overlap --ntasks="$SLURM_NTASKS" --kill-on-bad-exit=0 \
    bash -c 'exec kip worker "$0" --key-file "$1/keys/workers/slurm-$SLURM_PROCID.json"' "$first:$port" "$run" &

trap : TERM USR1
srun --overlap --nodes=1 --ntasks=1 --nodelist="$first" --gpus=0 \
    kip distill "$config" --out "$run" --executor zmq --workers 0 --address "$first:$port" --wait-for-workers 1800
status=$?
case $status in
    129 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit $status
