#!/usr/bin/env bash
# Makes one folder that checks gridpoint on a machine with an NVIDIA GPU and driver, without Rust, toolkit or network there.
#
#   scripts/gpu-check.sh [FOLDER]      default: target/gpu-check, at most 40 MB
#
# Copy the folder to the GPU machine and run its run.sh (scripts/gpu-run.sh): GPU tests and the program itself on the real driver, times
# beside the rivals', compute-sanitizer, ncu; a short table at the end, all figures in results/report.json. Its stages can be run one by
# one. The oldest C library that the programs take is printed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
folder=${1:-target/gpu-check}
# Test targets that need a real GPU.
tests=(gpu)

exports=$(scripts/get-nvcc.sh)
eval "$exports"
export GRIDPOINT_REQUIRE_NVCC=1
unset CUDA_COMPUTE_CAP

# take NAME: copies the executable of that name out of a cargo command's messages.
take() {
  local path
  path=$(python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1]:
        print(message["executable"])
' "$1")
  cp "$path" "$folder/bin/$1"
  strip "$folder/bin/$1"
  # The driver is loaded at run time: a machine without one must be able to start it and say so.
  if objdump -p "$folder/bin/$1" | grep -q 'NEEDED.*libcuda'; then
    echo "gpu-check.sh: $1 is linked against libcuda" >&2
    return 1
  fi
}

rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/data/assets" "$folder/data/tests"

cargo build --release --locked --message-format=json-render-diagnostics --bin gridpoint | take gridpoint
for test in "${tests[@]}"; do
  cargo test --release --locked --no-run --message-format=json-render-diagnostics --test "$test" | take "$test"
done

# Tests find their data below GRIDPOINT_TEST_DATA as below the repository.
cp -r assets/shakespeare-3m "$folder/data/assets/"
cp -r tests/models "$folder/data/tests/"
git describe --always --dirty 2>/dev/null >"$folder/revision" || echo unknown >"$folder/revision"

printf '%s\n' "${tests[@]}" >"$folder/suites"
cp scripts/gpu-run.sh "$folder/run.sh"
# The rivals' scripts; their tests and samples stay here.
mkdir "$folder/rivals"
cp benches/rivals/{common,cublaslt,products,attention,copies,table}.py "$folder/rivals/"

library=$(objdump -T "$folder"/bin/* | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
megabytes=$(du -sm --apparent-size "$folder" | cut -f1)
echo "$folder: $megabytes MB, needs $library"
[ "$megabytes" -le 40 ] || { echo "gpu-check.sh: the folder is larger than 40 MB" >&2; exit 1; }
