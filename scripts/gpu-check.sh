#!/usr/bin/env bash
# Makes one folder that checks gridpoint on a machine with an NVIDIA GPU and driver, without Rust, toolkit or network there.
#
#   scripts/gpu-check.sh [FOLDER]      default: target/gpu-check, at most 40 MB
#
# Copy the folder to the GPU machine and run its run.sh: all GPU tests and the program itself on the real driver, a short table
# at the end, all figures in results/report.json. The oldest C library that the programs take is printed.
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

cat >"$folder/run.sh" <<'RUN'
#!/usr/bin/env bash
# Runs everything on the real driver. Exit status 1 if anything failed; results/report.json holds every figure.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD
rm -rf results
mkdir -p results
export GRIDPOINT_TEST_DATA=$here/data REQUIRE_GPU=1
model=$here/data/assets/shakespeare-3m
failed=0
entries=()
table=()

seconds() { awk -v from="$1" -v to="$(date +%s.%N)" 'BEGIN { printf "%.2f", to - from }'; }

# check NAME COMMAND...: standard output is one JSON object, kept as the check's result.
check() {
  local name=$1 from status result verdict=ok elapsed
  shift
  from=$(date +%s.%N)
  "$@" >"results/$name.json" 2>"results/$name.log"
  status=$?
  elapsed=$(seconds "$from")
  result=$(cat "results/$name.json")
  [ -n "$result" ] || result=null
  if [ $status -ne 0 ]; then
    verdict="FAILED ($status)"
    failed=1
    tail -n 5 "results/$name.log" >&2
  fi
  entries+=("\"$name\":{\"status\":$status,\"seconds\":$elapsed,\"result\":$result}")
  table+=("$(printf '%-28s %-12s %9s s' "$name" "$verdict" "$elapsed")")
}

# suite NAME: a test program; each line of its output is an event as JSON, a figure as `figure {..}`, or words.
suite() {
  local name=$1 from status verdict elapsed figures outcomes passed not_passed
  from=$(date +%s.%N)
  "bin/$name" --test-threads=1 --format json >"results/$name.log" 2>&1
  status=$?
  elapsed=$(seconds "$from")
  figures=$(sed -n 's/^figure \({.*}\)$/\1/p' "results/$name.log" | paste -sd,)
  outcomes=$(sed -n 's/^{ "type": "test", "name": "\([^"]*\)", "event": "\([a-z]*\)".*/"\1":"\2"/p' "results/$name.log" | paste -sd,)
  passed=$(grep -c '^{ "type": "test", "name": .*"event": "ok"' "results/$name.log")
  not_passed=$(grep -c '^{ "type": "test", "name": .*"event": "\(failed\|ignored\)"' "results/$name.log")
  verdict="$passed ok"
  if [ $status -ne 0 ] || [ "$passed" = 0 ] || [ "$not_passed" != 0 ]; then
    verdict="$not_passed of $((passed + not_passed)) not ok"
    failed=1
    grep '"event": "\(failed\|ignored\)"' "results/$name.log" | head -n 20 >&2
    tail -n 5 "results/$name.log" | cut -c -400 >&2
  fi
  entries+=("\"tests_$name\":{\"status\":$status,\"seconds\":$elapsed,\"outcomes\":{$outcomes},\"figures\":[$figures]}")
  table+=("$(printf '%-28s %-12s %9s s' "tests: $name" "$verdict" "$elapsed")")
}

# orders_agree: seconds of the steps of each order, as one JSON object; fails where the results differ.
orders_agree() {
  local name text first="" separator="{"
  for name in generate_programmatic generate_serial generate_eager_programmatic generate_eager_serial; do
    text=$(sed -n 's/.*"results":\(.*\),"step_seconds".*/\1/p' "results/$name.json")
    printf '%s"%s":%s' "$separator" "$name" "$(sed -n 's/.*"step_seconds":\([0-9.e-]*\).*/\1/p' "results/$name.json")"
    separator=,
    [ -n "$text" ] && [ "$text" = "${first:=$text}" ] || { echo "$name: other results than generate_programmatic" >&2; return 1; }
  done
  printf '}'
}

gridpoint=bin/gridpoint
prompt=(--model "$model" --device cuda --format json --prompt "ROMEO:")
verse=("${prompt[@]}" --max-new-tokens 64)
long_verse=("${prompt[@]}" --max-new-tokens 400)
many=()
for i in $(seq 1 16); do many+=(--prompt "$(printf 'ROMEO:%.0s' $(seq 1 "$i"))"); done

check devices "$gridpoint" devices --format json
check generate "$gridpoint" generate "${verse[@]}"
check generate_eager "$gridpoint" generate "${verse[@]}" --eager
# With launches that overlap and with launches one after another: the same tokens, and how long the steps took.
for order in programmatic serial; do
  check "generate_$order" "$gridpoint" generate "${long_verse[@]}" --launches "$order"
  check "generate_eager_$order" "$gridpoint" generate "${long_verse[@]}" --launches "$order" --eager
done
check orders_agree orders_agree
check generate_linear "$gridpoint" generate "${verse[@]}" --sizing linear
check generate_many "$gridpoint" generate "${verse[@]}" "${many[@]}"
check generate_sampled "$gridpoint" generate "${verse[@]}" --temperature 0.8 --top-k 40 --top-p 0.95 --seed 7 --logprobs
check perplexity "$gridpoint" perplexity --model "$model" --device cuda --text "$model/eval.txt" --window 512 --format json
SUITES

gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null | head -n 1)
{
  printf '{"revision":"%s","date":"%s","gpu":"%s"' "$(cat revision)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$gpu"
  printf ',%s' "${entries[@]}"
  printf '}\n'
} >results/report.json

printf '\n%s\n' "${gpu:-no GPU named by nvidia-smi}" | tee results/table.txt
printf '%s\n' "${table[@]}" | tee -a results/table.txt
printf 'seconds of steps: %s\n' "$(cat results/orders_agree.json)" | tee -a results/table.txt
[ $failed = 0 ] && printf 'passed\n' || printf 'FAILED: see results/*.log\n'
exit $failed
RUN
suites=$(printf 'suite %s\\n' "${tests[@]}")
sed -i "s/^SUITES$/${suites%\\n}/" "$folder/run.sh"
chmod +x "$folder/run.sh"

library=$(objdump -T "$folder"/bin/* | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
megabytes=$(du -sm --apparent-size "$folder" | cut -f1)
echo "$folder: $megabytes MB, needs $library"
[ "$megabytes" -le 40 ] || { echo "gpu-check.sh: the folder is larger than 40 MB" >&2; exit 1; }
