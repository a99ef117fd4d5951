#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run exported files on an emulated ARM processor and compare their boxes with
# those of this machine. Makes a small arm64 Debian with wheels for it in
# work_dirs/aarch64, once, from the network; needs Debian and its package
# qemu-user-static, but no rights of root. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
export AARCH64_ROOT=$PWD/work_dirs/aarch64
part=$AARCH64_ROOT.partial
bash tools/setup_env.sh

if [ ! -d "$AARCH64_ROOT" ]; then
    rm -rf "$part"
    mkdir -p "$part"/apt/{state/lists,cache/archives}/partial "$part/proc"
    apt() {
        apt-get -qq -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 \
            -oDir::State="$part/apt/state" -oDir::State::status=/dev/null \
            -oDir::Cache="$part/apt/cache" -oDebug::NoLocking=1 \
            -oAPT::Sandbox::User= "$@"
    }
    apt update
    apt install -y --no-install-recommends --download-only python3 libstdc++6
    for package in "$part"/apt/cache/archives/*.deb; do
        dpkg -x "$package" "$part"
    done
    rm -r "$part/apt"
    python=$(readlink "$part/usr/bin/python3")
    platforms=$(printf -- '--platform manylinux_2_%d_aarch64 ' {17..28})
    # shellcheck disable=SC2086
    .venv/bin/python -m pip install -q --target "$part/site" --no-deps \
        --only-binary :all: $platforms --python-version "${python#python}" \
        ai-edge-litert flatbuffers ncnn numpy
    # the emulator shows this machine's, in which XNNPACK finds no ARM
    printf '%s\t: %s\n' processor 0 Features 'fp asimd fphp asimdhp cpuid' \
        'CPU implementer' 0x41 'CPU architecture' 8 'CPU variant' 0x3 \
        'CPU part' 0xd0c 'CPU revision' 1 >"$part/proc/cpuinfo"
    mv "$part" "$AARCH64_ROOT"
fi
exec bash tests/run.sh -n 0 -m slow tests/test_deploy/test_aarch64.py "$@"
