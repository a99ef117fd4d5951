#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make the project's own environment in .venv, and nothing outside of it except
# in pip's cache. Run again it does nothing; interrupted, it goes on where it
# stopped. Environment:
# PYTHON: the interpreter to use
# COMPILE=1: compile mmcv's own operators (needs g++, and 6 minutes on 2
#   cores); without it, mmfasternet.ops has those that detectors need
# STACK: onedl; openmmlab for OpenMMLab's own last releases in .venv-openmmlab;
#   or lowest for the oldest versions that setup.cfg allows in .venv-lowest
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "[set-up] $*"; }
fail() { echo "[set-up] error: $*" >&2; exit 1; }

# of the versions that setup.cfg does not have
pinned() { sed -n "s/^$1 = '\(.*\)'/\1/p" mmfasternet/doctor.py; }
TORCH=$(pinned TORCH) TORCH=${TORCH#torch==}
case ${STACK:=onedl} in
    onedl)
        venv=$PWD/.venv
        mmcv=onedl_mmcv-2.3.6
        extras=onedl,classification,deploy,ncnn,tests
        ;;
    openmmlab)
        venv=$PWD/.venv-openmmlab
        mmcv=mmcv-2.1.0
        # mmcv-lite, unless mmcv is there before it
        extras=openmmlab-lite,deploy,tests
        [ -z "${COMPILE:-}" ] || extras=openmmlab,deploy,tests
        ;;
    lowest)
        TORCH=2.6.0
        venv=$PWD/.venv-lowest
        mmcv=onedl_mmcv-2.3.6
        extras=onedl,classification,tests  # no export, see docs/en/promises.md
        ;;
    *) fail "STACK is onedl, openmmlab or lowest, not $STACK" ;;
esac
source_dir=$venv/src/$mmcv
build_log=$venv/mmcv_build.log
stamp=$venv/complete

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 \
            python3.11 python3.10; do
        if "$candidate" -c 'import sys, venv, ensurepip
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        [ -z "${PYTHON:-}" ] || break
    done
    fail "Python 3.10 to 3.14 with the venv module is needed, and" \
        "${PYTHON:-python3} is not that. Install one (Debian and Ubuntu:" \
        "apt install python3-venv), or name one: PYTHON=/path/to/python $0"
}

# mmcv has no wheel with compiled operators on the package index. The build
# stays in .venv/src until it is done, so that an interrupted one goes on.
build_mmcv() {
    command -v "${CXX:-g++}" >/dev/null ||
        fail "a C++ compiler is needed to build mmcv (apt install g++)"
    if [ ! -d "$source_dir" ]; then
        pip download -q --no-deps --no-build-isolation --no-binary :all: \
            -d "$venv/src" "${mmcv/-/==}"
        mkdir "$source_dir.partial"
        tar -xf "$source_dir.tar.gz" -C "$source_dir.partial" --strip 1
        mv "$source_dir.partial" "$source_dir"
    fi
    local total done_ first='' begin left
    begin=$SECONDS
    # the sources for other accelerators stand beside these
    total=$(cd "$source_dir/mmcv/ops/csrc/pytorch" && ls ./*.cpp cpu/*.cpp |
        wc -l)
    say "building mmcv's operators, once: about 6 minutes on 2 cores" \
        "(log: $build_log)"
    # Reading PyTorch's headers is most of the work, so they are compiled
    # first; g++ reads them as they are where its options are others.
    local header=$venv/src/torch.hpp options
    # setuptools takes CFLAGS in the place of Python's own
    CFLAGS="$("$venv/bin/python" -c 'import sysconfig
print(sysconfig.get_config_var("CFLAGS"))') ${CFLAGS:-} -g0"
    options="$("$venv/bin/python" -c 'import shlex, sysconfig
from torch.utils.cpp_extension import include_paths
print(sysconfig.get_config_var("CCSHARED"), "-std=c++17 -x c++-header",
      *(shlex.quote("-I" + path) for path in include_paths()))' 2>/dev/null)"
    echo '#include <torch/types.h>' >"$header"
    [ -e "$header.gch" ] || eval "${CXX:-g++} $CFLAGS $options" \
        '"$header" -o "$header.gch"' >"$build_log" 2>&1 || true
    export CFLAGS="$CFLAGS -include '$header'"
    MMCV_WITH_OPS=1 "$venv/bin/python" -m pip wheel -v --no-deps \
        --no-build-isolation -w "$wheels" "$source_dir" >"$build_log" 2>&1 &
    pid=$!
    trap 'kill $pid 2>/dev/null' EXIT
    while kill -0 $pid 2>/dev/null; do
        done_=$({ find "$source_dir/build" -name '*.o' || true; } \
            2>/dev/null | wc -l)
        first=${first:-$done_}  # compiled before an interruption
        left='time left unknown'
        [ "$done_" -le "$first" ] || left="about $(((SECONDS - begin) *
            (total - done_) / (done_ - first) / 60 + 1)) min left"
        if [ -t 1 ]; then
            printf '\r[set-up]   %s of %s files compiled, %s    ' \
                "$done_" "$total" "$left"
            sleep 2
        else
            say "  $done_ of $total files compiled, $left"
            sleep 30
        fi
    done
    trap - EXIT
    [ ! -t 1 ] || echo
    wait $pid || { tail -n 20 "$build_log" >&2; fail "mmcv did not build"; }
}

# activate and the other scripts hold the path of the folder
wanted="$({ cat setup.cfg tools/setup_env.sh; pinned OPENCV; } | cksum) $venv"
case $(cat "$stamp" 2>/dev/null) in
    "$wanted compiled") exit 0 ;;
    "$wanted") [ -n "${COMPILE:-}" ] || exit 0 ;;
esac

# without pip it was interrupted while it was made, elsewhere it was moved
if ! pip --version >/dev/null 2>&1 ||
        ! grep -qF "$venv" "$venv/bin/activate"; then
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi
mkdir -p "$venv/src"
rm -rf "$source_dir.partial"

# pip's own progress where somebody looks
quiet=-q
[ ! -t 1 ] || quiet=''
say "installing torch $TORCH"
# setuptools: from 77 on it reads mmcv's licence; pkg_resources, which mmcv's
# build and mmengine 0.10.7 import, is gone from 82 on
pip install $quiet "torch==$TORCH" 'setuptools>=77,<81' wheel \
    ${COMPILE:+ninja psutil}

wheels=$(pip cache dir 2>/dev/null || echo "$venv")/mmfasternet
if ! mkdir -p "$wheels" 2>/dev/null || [ ! -w "$wheels" ]; then
    wheels=$venv/mmfasternet
    export PIP_NO_CACHE_DIR=1  # to root pip's check says that it can write
fi
if [ -n "${COMPILE:-}" ]; then
    # compiled for one version of torch, shared by all clones
    wheels=$wheels/torch-$TORCH
    tag=$("$venv/bin/python" -c \
        'import sys; print("cp%d%d" % sys.version_info[:2])')
    if ! compgen -G "$wheels/$mmcv-$tag-*.whl" >/dev/null; then
        pip download -q --no-deps --only-binary :all: -d "$wheels" \
            "${mmcv/-/==}" 2>/dev/null || build_mmcv
    fi
    pip uninstall -qq -y mmcv-lite
    pip install -q --force-reinstall --no-deps "$wheels/$mmcv-$tag-"*.whl
elif [ "$STACK" != openmmlab ]; then
    # no operators, so neither a compiler nor this torch; not from pip's own
    # cache, where one that was compiled for another torch may be
    wheels=$wheels/no-operators
    compgen -G "$wheels/$mmcv-*.whl" >/dev/null ||
        MMCV_WITH_OPS=0 pip wheel -q --no-deps --no-cache-dir -w "$wheels" \
            "${mmcv/-/==}"
    pip install -q --force-reinstall --no-deps "$wheels/$mmcv-"*.whl
fi

say "installing mmfasternet and what it needs"
constraints=$venv/src/constraints.txt
if [ "$STACK" = lowest ]; then
    sed -n 's/^ *\([a-z-]*\)>=/\1==/p' setup.cfg
fi >"$constraints"
pip install $quiet --no-build-isolation -c "$constraints" -e ".[$extras]"
# Two distributions of OpenCV write the same cv2, and the one with a window
# system does not load on a machine without.
pip uninstall -qq -y opencv-python opencv-python-headless
pip install -q --no-deps "$(pinned OPENCV)"
# the networks that FasterNet is compared with; its torchvision is not for a
# PyTorch without CUDA, and the models do without it
pip install -q --no-deps timm==1.0.31

"$venv/bin/python" -c 'import mmfasternet.models, mmcv.ops' >/dev/null ||
    fail "the environment does not work, see above. Make it anew:" \
        "rm -rf '$venv' '$wheels' and run $0 again"
rm -rf "$venv/src"
echo "$wanted${COMPILE:+ compiled}" >"$stamp"
say "done: source ${venv#"$PWD/"}/bin/activate"
