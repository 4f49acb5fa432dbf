#!/bin/bash
# The rows of a table, a GPU and a job each. `kip status RUN` tells how far one is.
#
#   sbatch --array=1-"$(kip configs main_table: | wc -l)" rows.sh main_table:
#
#SBATCH --job-name=kip-rows
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
row=$(kip configs "$1" | sed -n "${SLURM_ARRAY_TASK_ID}p" | cut -d ' ' -f 1)
[ -n "$row" ] || { echo "there is no row $SLURM_ARRAY_TASK_ID" && exit 2; }

trap : TERM USR1
srun kip distill "$row" --out "runs/${row//:/-}"
status=$?
case $status in
    129 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit $status
