#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: dist_train.sh CONFIG GPUS [ARGUMENTS OF train.py]
# Without a GPU, GPUS is the number of processes. Environment:
# NNODES, NODE_RANK, MASTER_ADDR, PORT: machines, the number of this one, and
#     the address and a free port of number 0, at which all of them meet;
#     with one machine, PORT=0 finds a free one
# GLOO_SOCKET_IFNAME: the network interface to the other machines, if it is
#     not the one that leads to MASTER_ADDR; NCCL_SOCKET_IFNAME is NCCL's
# MAX_RESTARTS: how often all processes are started again after one of them
#     has died; they go on from the newest checkpoint by themselves
# Exit status: that of train.py, 143 after SIGTERM, 130 after Ctrl-C.

CONFIG=$1
GPUS=$2
export NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
PORT=${PORT:-29500}
export MASTER_ADDR=${MASTER_ADDR:-"127.0.0.1"}
MAX_RESTARTS=${MAX_RESTARTS:-0}

# the step that is under way, and writing the checkpoint, take longer than
# torchrun's 30 seconds with a large model
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}

# exec: a signal for this script reaches torchrun, which passes it on to the
# processes and waits for them
PYTHONPATH="$(dirname "$0")/..":$PYTHONPATH \
exec python "$(dirname "$0")/misc/torchrun.py" \
    --nnodes="$NNODES" \
    --nproc_per_node="$GPUS" \
    --max_restarts="$MAX_RESTARTS" \
    --rdzv_backend=c10d \
    --rdzv_endpoint="$MASTER_ADDR:$PORT" \
    --rdzv_id="$PORT" \
    --rdzv_conf="is_host=$((NODE_RANK == 0))" \
    "$(dirname "$0")/train.py" \
    "$CONFIG" \
    --launcher pytorch "${@:3}"
