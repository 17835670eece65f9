#!/usr/bin/env bash
# Fetches the pinned CUDA compiler from Python wheels into target/cuda, for machines without a toolkit.
#
#   eval "$(scripts/get-nvcc.sh)"                     nvcc, and NVCC set for this shell
#   eval "$(scripts/get-nvcc.sh --with-libclang)"     also libclang, which regenerates the parameter structs' bindings
#   eval "$(scripts/get-nvcc.sh --with-nvdisasm)"     also the disassembler, which scripts/check-kernels.sh reads machine code with
#
# Standard output holds the lines to evaluate and nothing else. What is already there is not fetched again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
with_libclang=0
with_nvdisasm=0
for argument in "$@"; do
  case $argument in
    --with-libclang) with_libclang=1 ;;
    --with-nvdisasm) with_nvdisasm=1 ;;
    *) echo "get-nvcc.sh: unknown argument \`$argument\`; right are --with-libclang, --with-nvdisasm or nothing" >&2; exit 2 ;;
  esac
done

# All of one release: unpinned companions resolve to a newer PTX version than this assembler takes.
cuda_wheels=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-crt==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-cccl==13.0.85
)
libclang_wheels=(libclang==18.1.1)
# The oldest wheel there is; it reads machine code of older assemblers too.
nvdisasm_wheels=(nvidia-cuda-nvdisasm==13.2.51)

# Prints the words of a command that runs pip; makes a virtual environment where Python has no pip of its own.
find_pip() {
  local environment=$root/target/pip-environment
  if python3 -m pip --version >/dev/null 2>&1; then
    echo "python3 -m pip"
  elif "$environment/bin/python" -m pip --version >/dev/null 2>&1 \
    || python3 -m venv "$environment" >/dev/null 2>&1; then
    echo "$environment/bin/python -m pip"
  elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-pip >&2
    echo "python3 -m pip"
  else
    echo "get-nvcc.sh: python3 has neither pip nor venv; install python3-pip" >&2
    return 1
  fi
}

# install FOLDER WHEEL...: a folder is complete when its stamp names these wheels.
install() {
  local folder=$1 stamp
  shift
  stamp=$folder/.wheels
  if [ "$(cat "$stamp" 2>/dev/null)" != "$*" ]; then
    echo "get-nvcc.sh: fetching $*" >&2
    rm -rf "$folder"
    mkdir -p "$folder"
    local pip
    pip=$(find_pip)
    # shellcheck disable=SC2086  # the command is several words
    $pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$folder" "$@" >&2
    echo "$*" >"$stamp"
    # Cargo does not look for a compiler that was not there: a newer build script makes it look again.
    touch "$root/build.rs"
  fi
}

install "$root/target/cuda" "${cuda_wheels[@]}"
nvcc=$root/target/cuda/nvidia/cu13/bin/nvcc
"$nvcc" --version >&2
echo "export NVCC='$nvcc'"
if [ "$with_libclang" = 1 ]; then
  install "$root/target/libclang" "${libclang_wheels[@]}"
  echo "export LIBCLANG_PATH='$root/target/libclang/clang/native'"
fi
if [ "$with_nvdisasm" = 1 ]; then
  install "$root/target/nvdisasm" "${nvdisasm_wheels[@]}"
  echo "export NVDISASM='$root/target/nvdisasm/nvidia/cu13/bin/nvdisasm'"
fi
