#!/usr/bin/env bash
# Compiles every kernel to machine code for several GPUs and fails when one spills registers to memory.
#
#   scripts/check-spills.sh [ARCHITECTURE...]     default: 80 90a 100 120 (the last two as the driver compiles the PTX of 90)
#
# Prints one line a kernel and architecture: registers, spilled bytes, stack frame, static shared memory. nvcc is $NVCC or on PATH.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
nvcc=${NVCC:-nvcc}
command -v "$nvcc" >/dev/null || { echo "check-spills.sh: \`$nvcc\` was not found; scripts/get-nvcc.sh fetches it" >&2; exit 1; }
architectures=("$@")
[ ${#architectures[@]} -gt 0 ] || architectures=(80 90a 100 120)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

jobs=()
for source in kernels/*.cu; do
  [ -e "$source" ] || { echo "check-spills.sh: there is no kernel" >&2; exit 1; }
  for architecture in "${architectures[@]}"; do
    jobs+=("$source" "$architecture")
  done
done

# The flags of build/nvcc.rs. GPUs that run the PTX of 9.0 get machine code made from that PTX.
compile() {
  local nvcc=$1 work=$2 source=$3 architecture=$4 virtual=$4
  case $architecture in
    1[0-9][0-9]) virtual=90 ;;
  esac
  "$nvcc" -cubin -std=c++17 -O3 -lineinfo -fmad=false -Werror=all-warnings -Xptxas -v -I kernels \
    -gencode "arch=compute_$virtual,code=sm_$architecture" "$source" -o "$work/$(basename "$source").$architecture.cubin" \
    >"$work/$(basename "$source").$architecture.log" 2>&1 \
    || { cat "$work/$(basename "$source").$architecture.log" >&2; return 1; }
}
export -f compile
printf '%s\0' "${jobs[@]}" | xargs -0 -n 2 -P "$(nproc)" bash -c 'compile "$@"' compile "$nvcc" "$work"

cat "$work"/*.log | awk '
  /Compiling entry function/ { split($0, part, "\x27"); kernel = part[2]; architecture = part[4]; next }
  /Function properties for/ { inside = $NF; next }
  /bytes stack frame/ {
    for (i = 1; i < NF; ++i) {
      if ($(i + 1) == "bytes" && $(i + 2) == "stack") frame = $i
      if ($(i + 1) == "bytes" && $(i + 2) == "spill" && $(i + 3) ~ /^stores/) stores = $i
      if ($(i + 1) == "bytes" && $(i + 2) == "spill" && $(i + 3) ~ /^loads/) loads = $i
    }
    spilled = stores + loads
    # A function that was not inlined into its kernel reports under its own name and never uses registers on its own line.
    if (inside != kernel) { total_spilled += spilled; if (spilled) printf "%-40s %-8s spills %d bytes\n", inside, architecture, spilled }
    next
  }
  /Used [0-9]+ registers/ {
    match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
    shared = 0
    if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH) + 0
    printf "%-40s %-8s registers %3d  spilled %d  stack %d  shared %d\n", kernel, architecture, registers, spilled, frame, shared | "sort"
    ++kernels
    total_spilled += spilled
  }
  END {
    close("sort")
    if (!kernels) { print "check-spills.sh: the assembler named no kernel" > "/dev/stderr"; exit 1 }
    printf "%d kernels, %d bytes spilled\n", kernels, total_spilled
    exit total_spilled > 0
  }'
