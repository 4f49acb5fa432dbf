#!/bin/bash
# One run on one node: its process uses all eight GPUs. The job queues itself again until the run is at its end.
#
#   sbatch one_node.sh cifar10_convnet_10
#
#SBATCH --job-name=kip
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
config=$1
run=runs/${config//:/-} # a folder that every node sees

# Slurm sends kip SIGUSR1 120 s before the limit, and SIGTERM at a preemption. kip saves its last step and ends. This
# script gets some of these signals too, and has to live until then.
trap : TERM USR1
srun kip distill "$config" --out "$run"
status=$?

case $status in
    129 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;; # SIGHUP, SIGUSR1 and SIGTERM: stopped, to go on later
esac
exit $status
