#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make the environment, then run the tests; arguments go to pytest.
# Environment: STACK and PYTHON, see tools/setup_env.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup_env.sh
venv=.venv
[ "${STACK:-onedl}" = onedl ] || venv=.venv-$STACK
# two processes of one thread each, of which one that is done takes half of what
# is left to the other, in its order; -n 0 is one process
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$venv/bin/python" -m pytest -n 2 --dist worksteal "$@"
