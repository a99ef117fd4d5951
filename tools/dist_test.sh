#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py]
# Environment: NNODES, NODE_RANK, MASTER_ADDR, PORT, GLOO_SOCKET_IFNAME, as in
# dist_train.sh.
# Without a GPU, GPUS is the number of processes.

CONFIG=$1
CHECKPOINT=$2
GPUS=$3
export NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
PORT=${PORT:-29500}
export MASTER_ADDR=${MASTER_ADDR:-"127.0.0.1"}

PYTHONPATH="$(dirname "$0")/..":$PYTHONPATH \
exec python "$(dirname "$0")/misc/torchrun.py" \
    --nnodes="$NNODES" \
    --nproc_per_node="$GPUS" \
    --rdzv_backend=c10d \
    --rdzv_endpoint="$MASTER_ADDR:$PORT" \
    --rdzv_id="$PORT" \
    --rdzv_conf="is_host=$((NODE_RANK == 0))" \
    "$(dirname "$0")/test.py" \
    "$CONFIG" \
    "$CHECKPOINT" \
    --launcher pytorch "${@:4}"
