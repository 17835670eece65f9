#!/usr/bin/env bash
# Runs on a GPU machine what scripts/gpu-check.sh packed, in stages of less than ten minutes each.
#
#   run.sh [STAGE...]       default: all, in this order
#
#   tests       every GPU test, the program itself on the real driver
#   verify      `gridpoint verify`: every captured graph against eager launches, bit for bit, and 10000 replays at random points; once more
#               under compute-sanitizer
#   tune        `gridpoint tune` for the shapes: every kernel of their products, the fastest into results/products.json
#   bench       `gridpoint bench`: the same requests under linear, exponential and hybrid sizing, Llama-3-8B's shape, every token compared,
#               with the choices of `tune` where it has run
#   capture     `gridpoint capture`: 62 to 113 graphs and a linear plan of Llama-3-8B's shape, 8 to 32 layers, 1 to 8 threads; their memory
#   time        `gridpoint kernels --time` for the shapes, and the whole decode step, with the choices of `tune` where it has run
#   rivals      cublasLt, PyTorch and, where they are there, FlashInfer and FlashAttention-3, on the sizes that `time` recorded
#   sanitizer   compute-sanitizer (memcheck, racecheck, initcheck) on small steps
#   counts      ncu's counts of one step, and those of the simulated device beside them
#
# Every call ends with results/report.json, which holds what all stages so far recorded, results/table.txt and, of times,
# results/table.md. What is not on the machine is named as missing and is no failure. Exit status 1 if anything failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD
mkdir -p results
export GRIDPOINT_TEST_DATA=$here/data REQUIRE_GPU=1 PYTHONDONTWRITEBYTECODE=1
model=$here/data/assets/shakespeare-3m
gridpoint=bin/gridpoint
shapes=(llama-3-8b llama-3-70b-tp8)
failed=0
stage=none

seconds() { awk -v from="$1" -v to="$(date +%s.%N)" 'BEGIN { printf "%.2f", to - from }'; }
quoted() { tr -d '\000-\037"\\' <<<"$1" | sed 's/.*/"&"/'; }
entry() { printf '%s\n' "$1" >>"results/$stage.entries"; }
row() { printf '%-32s %-14s %9s s\n' "$1" "$2" "$3" >>"results/$stage.rows"; }

# missing NAME WHY: something that this machine does not have.
missing() {
  entry "\"$1\":{\"missing\":$(quoted "$2")}"
  row "$1" missing 0
}

# check NAME LIMIT COMMAND...: standard output is one JSON object, kept as the check's result; LIMIT in seconds.
check() {
  local name=$1 limit=$2 from status result verdict=ok elapsed
  shift 2
  from=$(date +%s.%N)
  timeout -k 5 "$limit" "$@" >"results/$name.json" 2>"results/$name.log"
  status=$?
  elapsed=$(seconds "$from")
  result=$(tr -d '\n' <"results/$name.json")
  case $result in
    "{"*"}") ;;
    *) result=null; [ $status -ne 0 ] || status=99 ;;
  esac
  if [ $status -ne 0 ]; then
    verdict="FAILED ($status)"
    failed=1
    tail -n 5 "results/$name.log" >&2
  fi
  entry "\"$name\":{\"status\":$status,\"seconds\":$elapsed,\"result\":$result}"
  row "$name" "$verdict" "$elapsed"
}

# watch NAME LIMIT COMMAND...: a tool whose exit status is the answer and whose words stay in results/NAME.log.
watch() {
  local name=$1 limit=$2 from status verdict=ok elapsed
  shift 2
  from=$(date +%s.%N)
  timeout -k 5 "$limit" "$@" >"results/$name.log" 2>&1
  status=$?
  elapsed=$(seconds "$from")
  if [ $status -ne 0 ]; then
    verdict="FAILED ($status)"
    failed=1
    tail -n 15 "results/$name.log" | cut -c -300 >&2
  fi
  entry "\"$name\":{\"status\":$status,\"seconds\":$elapsed,\"last\":$(quoted "$(tail -n 1 "results/$name.log")")}"
  row "$name" "$verdict" "$elapsed"
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
  entry "\"tests_$name\":{\"status\":$status,\"seconds\":$elapsed,\"outcomes\":{$outcomes},\"figures\":[$figures]}"
  row "tests: $name" "$verdict" "$elapsed"
}

clock_fields=clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw,clocks_event_reasons.active
# clocks WHEN: what the driver says of clocks, temperature, power and what holds the clocks back.
clocks() {
  local line
  line=$(nvidia-smi --query-gpu="$clock_fields" --format=csv,noheader 2>/dev/null | head -n 1)
  entry "\"clocks_${stage}_$1\":{\"fields\":\"$clock_fields\",\"values\":$(quoted "${line:-unknown}")}"
}

# orders_agree: seconds of the steps of each order, as one JSON object; fails where the results differ.
orders_agree() {
  local name text first="" separator="{"
  for name in generate_programmatic generate_serial generate_eager_programmatic generate_eager_serial generate_portable; do
    text=$(sed -n 's/.*"results":\(.*\),"step_seconds".*/\1/p' "results/$name.json")
    printf '%s"%s":%s' "$separator" "$name" "$(sed -n 's/.*"step_seconds":\([0-9.e-]*\).*/\1/p' "results/$name.json")"
    separator=,
    [ -n "$text" ] && [ "$text" = "${first:=$text}" ] || { echo "$name: other results than generate_programmatic" >&2; return 1; }
  done
  printf '}'
}
export -f orders_agree

stage_tests() {
  local verse=(--model "$model" --device cuda --format json --prompt "ROMEO:" --max-new-tokens 64) many=() name order
  local long_verse=(--model "$model" --device cuda --format json --prompt "ROMEO:" --max-new-tokens 400)
  for i in $(seq 1 16); do many+=(--prompt "$(printf 'ROMEO:%.0s' $(seq 1 "$i"))"); done
  check devices 60 "$gridpoint" devices --format json
  check generate 60 "$gridpoint" generate "${verse[@]}"
  check generate_eager 60 "$gridpoint" generate "${verse[@]}" --eager
  # With launches that overlap and with launches one after another, and with the kernels of every GPU: the same tokens, and how long the
  # steps took.
  for order in programmatic serial; do
    check "generate_$order" 60 "$gridpoint" generate "${long_verse[@]}" --launches "$order"
    check "generate_eager_$order" 60 "$gridpoint" generate "${long_verse[@]}" --launches "$order" --eager
  done
  check generate_portable 60 "$gridpoint" generate "${long_verse[@]}" --kernels portable
  check orders_agree 5 bash -c orders_agree
  check generate_linear 60 "$gridpoint" generate "${verse[@]}" --sizing linear
  check generate_many 60 "$gridpoint" generate "${verse[@]}" "${many[@]}"
  check generate_sampled 60 "$gridpoint" generate "${verse[@]}" --temperature 0.8 --top-k 40 --top-p 0.95 --seed 7 --logprobs
  check perplexity 60 "$gridpoint" perplexity --model "$model" --device cuda --text "$model/eval.txt" --window 512 --format json
  check perplexity_portable 60 "$gridpoint" perplexity --model "$model" --device cuda --text "$model/eval.txt" --window 512 --format json \
    --kernels portable
  check perplexities_agree 5 bash -c 'cmp results/perplexity.json results/perplexity_portable.json >&2 && printf "{\"equal\":true}"'
  while read -r name; do suite "$name"; done <suites
}

stage_verify() {
  local run=(--model "$model" --device cuda --format json) small=(--max-requests 8 --max-tokens 64 --all-prefills --max-seq-len 700)
  # Every graph of the default plan, full; then chains, between which a smaller cache is compared.
  check verify 200 "$gridpoint" verify "${run[@]}"
  check verify_soak 90 "$gridpoint" verify "${run[@]}" --max-requests 64 --all-prefills --max-tokens 512 --cache-bytes 24MiB --soak 10000
  check verify_portable 60 "$gridpoint" verify "${run[@]}" "${small[@]}" --soak 1000 --kernels portable
  check verify_serial 60 "$gridpoint" verify "${run[@]}" "${small[@]}" --soak 1000 --launches serial
  if ! command -v compute-sanitizer >/dev/null; then missing verify_memcheck "there is no compute-sanitizer"; return; fi
  # Graphs of few tokens, so that each kernel kind is replayed within the time.
  watch verify_memcheck 120 compute-sanitizer --tool memcheck --error-exitcode 9 --print-limit 20 \
    "$gridpoint" verify "${run[@]}" "${small[@]}" --soak 20
}

# One table for all shapes: the second adds to what the first has written.
products=results/products.json
stage_tune() {
  local shape
  rm -f "$products"
  for shape in "${shapes[@]}"; do
    check "tune_$shape" 280 "$gridpoint" tune --device cuda --shape "$shape" --all-prefills --output "$products" --format json
  done
}

stage_bench() {
  local sizings=linear,exponential,hybrid run=(--device cuda --max-requests 396 --max-tokens 16384 --requests 256 --prompt-tokens 64:1024 --new-tokens 128 --format json)
  [ -s "$products" ] && run+=(--products "$products")
  check bench 220 "$gridpoint" bench --shape llama-3-8b --compare $sizings "${run[@]}" --rounds 3
  check bench_reversed 110 "$gridpoint" bench --shape llama-3-8b --compare hybrid,exponential,linear "${run[@]}"
  check bench_all_prefills 110 "$gridpoint" bench --shape llama-3-8b --compare $sizings "${run[@]}" --all-prefills
  check bench_model 60 "$gridpoint" bench --model "$model" --compare $sizings "${run[@]}"
}

stage_capture() {
  local layers
  for layers in 8 16 32; do
    check "capture_$layers" 60 "$gridpoint" capture --device cuda --shape llama-3-8b --layers "$layers" --max-tokens 16384 --max-requests 512 --all-prefills --format json
  done
  check capture_2048 60 "$gridpoint" capture --device cuda --shape llama-3-8b --max-tokens 2048 --max-requests 256 --all-prefills --format json
  check capture_512 60 "$gridpoint" capture --device cuda --shape llama-3-8b --max-tokens 512 --max-requests 256 --all-prefills --format json
  check capture_linear 60 "$gridpoint" capture --device cuda --shape llama-3-8b --max-tokens 16384 --max-requests 512 --all-prefills --sizing linear --format json
}

stage_time() {
  local shape choices=()
  [ -s "$products" ] && choices=(--products "$products")
  for shape in "${shapes[@]}"; do
    check "time_$shape" 220 "$gridpoint" kernels --time --device cuda --shape "$shape" ${choices[@]+"${choices[@]}"} --format json
  done
  for shape in "${shapes[@]}"; do
    check "step_$shape" 60 "$gridpoint" kernels --time --device cuda --shape "$shape" --point 1:0:1 --context 512 ${choices[@]+"${choices[@]}"} --format json
  done
}

stage_rivals() {
  local ours=() shape
  for shape in "${shapes[@]}"; do
    [ -s "results/time_$shape.json" ] && ours+=("results/time_$shape.json")
  done
  if [ ${#ours[@]} = 0 ]; then missing rivals "the stage time has recorded no sizes"; return; fi
  if ! command -v python3 >/dev/null; then missing rivals "there is no python3"; return; fi
  check rivals_products 340 python3 rivals/products.py --seconds 280 "${ours[@]}"
  check rivals_attention 150 python3 rivals/attention.py --seconds 110 "${ours[@]}"
  check rivals_copies 80 python3 rivals/copies.py --seconds 60 "${ours[@]}"
}

stage_sanitizer() {
  local tool
  if ! command -v compute-sanitizer >/dev/null; then missing sanitizer "there is no compute-sanitizer"; return; fi
  for tool in memcheck racecheck initcheck; do
    local sanitizer=(compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20)
    # A whole step of every kernel kind at a mixed point, replayed and eager; then steps that are compared with references.
    watch "${tool}_step" 90 "${sanitizer[@]}" "$gridpoint" generate --model "$model" --device cuda --prompt "ROMEO:" --max-new-tokens 3 --format json
    watch "${tool}_tests" 100 "${sanitizer[@]}" bin/gpu --test-threads=1 shapes/head_of_128
  done
}

stage_counts() {
  local metrics=smsp__inst_executed_pipe_tensor.sum,l1tex__data_bank_conflicts_pipe_lsu.sum,l1tex__t_bytes.sum,dram__bytes_read.sum,dram__bytes_write.sum,launch__registers_per_thread,gpu__time_duration.sum
  check counted 120 "$gridpoint" kernels --counters --device simulator --model "$model" --point 64:2:16 --format json
  if ! command -v ncu >/dev/null; then missing ncu "there is no ncu"; return; fi
  local from status elapsed
  from=$(date +%s.%N)
  timeout -k 5 400 ncu --csv --log-file results/ncu.csv --metrics "$metrics" --launch-count 120 \
    "$gridpoint" generate --model "$model" --device cuda --eager --prompt "ROMEO:" --max-new-tokens 2 >results/ncu.log 2>&1
  status=$?
  elapsed=$(seconds "$from")
  # Counters may be kept for administrators, which is the machine's affair.
  if grep -q ERR_NVGPUCTRPERM results/ncu.csv results/ncu.log 2>/dev/null; then missing ncu "the driver keeps its counters for administrators"; return; fi
  [ $status = 0 ] || failed=1
  entry "\"ncu\":{\"status\":$status,\"seconds\":$elapsed,\"rows\":$(grep -c '^"[0-9]' results/ncu.csv 2>/dev/null || true)}"
  row ncu "$([ $status = 0 ] && echo ok || echo "FAILED ($status)")" "$elapsed"
}

all=(tests verify tune bench capture time rivals sanitizer counts)
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=("${all[@]}")
for stage in "${stages[@]}"; do
  case " ${all[*]} " in
    *" $stage "*) ;;
    *) echo "run.sh: there is no stage \`$stage\`; the stages are ${all[*]}" >&2; exit 2 ;;
  esac
done
for stage in "${stages[@]}"; do
  rm -f "results/$stage.entries" "results/$stage.rows"
  clocks before
  # The clocks under load, once a second.
  sampler=
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,$clock_fields --format=csv,noheader -l 1 >"results/clocks-$stage.csv" 2>/dev/null &
    sampler=$!
  fi
  "stage_$stage"
  [ -z "$sampler" ] || { kill "$sampler" && wait "$sampler"; } 2>/dev/null
  clocks after
done

# The table of times, from whatever was recorded.
ours=() rivals=() step=()
for shape in "${shapes[@]}"; do [ -s "results/time_$shape.json" ] && ours+=("results/time_$shape.json"); done
for name in products attention copies; do [ -s "results/rivals_$name.json" ] && rivals+=("results/rivals_$name.json"); done
for shape in "${shapes[@]}"; do [ -s "results/step_$shape.json" ] && step+=("results/step_$shape.json"); done
targets=null
if [ ${#ours[@]} -gt 0 ] && command -v python3 >/dev/null; then
  if python3 rivals/table.py "${ours[@]}" --rivals ${rivals[@]+"${rivals[@]}"} ${step[0]:+--step "${step[0]}"} --json results/targets.json >results/table.md 2>results/table.log; then
    targets=$(tr -d '\n' <results/targets.json)
  else
    failed=1
    tail -n 3 results/table.log >&2
  fi
fi

gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null | head -n 1)
{
  printf '{"revision":"%s","date":"%s","gpu":%s,"host":%s,"targets":%s' "$(cat revision)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
    "$(quoted "${gpu:-unknown}")" "$(quoted "$(uname -sr), $(nproc) processors")" "$targets"
  for stage in "${all[@]}"; do
    [ -s "results/$stage.entries" ] && sed 's/^/,/' "results/$stage.entries" | tr -d '\n'
  done
  printf '}\n'
} >results/report.json

{
  printf '\n%s\n' "${gpu:-no GPU named by nvidia-smi}"
  for stage in "${all[@]}"; do
    [ -s "results/$stage.rows" ] && cat "results/$stage.rows"
  done
} | tee results/table.txt
[ -s results/table.md ] && sed -n '/^## Targets/,/^## [^T]/p' results/table.md | sed '$d'
[ $failed = 0 ] && printf 'passed\n' || printf 'FAILED: see results/*.log\n'
exit $failed
