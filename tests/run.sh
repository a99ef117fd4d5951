#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make the environment, then run the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup_env.sh
.venv/bin/python -m pytest "$@"
