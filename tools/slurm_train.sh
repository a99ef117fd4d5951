#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF train.py]
# Environment: GPUS, GPUS_PER_NODE, CPUS_PER_TASK (for each GPU), SRUN_ARGS,
# PORT, MAX_RESTARTS.
# In a batch job that gets SIGTERM before its time is over, it saves, puts the
# job back into the queue, and goes on from there when that starts again:
#   sbatch -p PARTITION --nodes=2 --gres=gpu:8 --requeue --signal=TERM@120 \
#       --open-mode=append --wrap='GPUS=16 bash tools/slurm_train.sh ...'

set -x

PARTITION=$1
JOB_NAME=$2
CONFIG=$3
WORK_DIR=$4
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
CPUS_PER_TASK=${CPUS_PER_TASK:-5}
SRUN_ARGS=${SRUN_ARGS:-""}
BATCH_JOB=$SLURM_JOB_ID
((GPUS_PER_NODE <= GPUS)) || GPUS_PER_NODE=$GPUS
((GPUS % GPUS_PER_NODE == 0)) || {  # each machine gets as many
    echo "error: GPUS=$GPUS must be a multiple of" \
        "GPUS_PER_NODE=$GPUS_PER_NODE" >&2
    exit 1
}
export NNODES=$(((GPUS + GPUS_PER_NODE - 1) / GPUS_PER_NODE))

# SRUN_ARGS is split into words on purpose; each machine has its own number
# shellcheck disable=SC2086,SC2016
srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres=gpu:"$GPUS_PER_NODE" \
    --nodes="$NNODES" \
    --ntasks-per-node=1 \
    --cpus-per-task="$((CPUS_PER_TASK * GPUS_PER_NODE))" \
    --kill-on-bad-exit=1 \
    $SRUN_ARGS \
    bash -c '
        export NODE_RANK=$SLURM_PROCID
        export MASTER_ADDR=$(scontrol show hostnames | head -n 1)
        exec bash "$@"' bash \
    "$(dirname "$0")/dist_train.sh" "$CONFIG" "$GPUS_PER_NODE" \
    --work-dir="$WORK_DIR" "${@:5}"
status=$?
if [ $status = 143 ] && [ -n "$BATCH_JOB" ]; then
    scontrol requeue "$BATCH_JOB"
fi
exit $status
