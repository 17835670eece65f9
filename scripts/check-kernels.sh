#!/usr/bin/env bash
# Compiles every kernel to machine code for several GPUs and holds it to what is checked in: registers, memory, instructions.
#
#   scripts/check-kernels.sh [--update] [--without-disassembly] [--root FOLDER] [ARCHITECTURE...]
#
#   ARCHITECTURE            default: 80 90a 100 120 (the last two as the driver compiles the PTX of 90)
#   --update                writes kernels/budget.tsv anew instead of comparing with it
#   --without-disassembly   leaves out what needs nvdisasm
#   --root FOLDER           checks FOLDER/kernels instead of this repository's; the compiler's options are this repository's
#
# kernels/budget.tsv holds, for each kernel and architecture, the most registers, static shared memory and constant bytes that ptxas may
# report, and the dynamic shared memory that parameters.h states. Spills and stack are allowed to none. kernels/instructions.tsv holds what
# must stand in the machine code of which kernels; loads and stores of local memory (LDL, STL) may stand in none.
# Every breach is one sentence on standard error; the exit status is then 1.
#
# nvcc is $NVCC or on PATH; nvdisasm is $NVDISASM, beside nvcc, or on PATH. scripts/get-nvcc.sh --with-nvdisasm fetches both. What was compiled
# from the same files by the same command lies in target/check-kernels and is not compiled again; nor is what cargo's build compiled so, whose
# machine code, PTX and report of ptxas lie in target/compiled-kernels (build/nvcc.rs).
set -euo pipefail

say() { echo "check-kernels.sh: $*" >&2; }
refuse() { say "$*"; exit 2; }
# Paths that the caller gave hold after `cd`.
absolute() { case $1 in */*) echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")" ;; *) echo "$1" ;; esac; }

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$repository
update=0
disassembly=1
architectures=()
while [ $# -gt 0 ]; do
  case $1 in
    --update) update=1 ;;
    --without-disassembly) disassembly=0 ;;
    --root) shift; [ -d "${1:-}" ] || refuse "\`--root\` takes a folder, \`${1:-}\` is none"; root=$(cd "$1" && pwd) ;;
    [0-9]*) architectures+=("$1") ;;
    *) refuse "unknown argument \`$1\`; right are --update, --without-disassembly, --root FOLDER and architectures as \`90a\`" ;;
  esac
  shift
done
[ $update = 0 ] || [ ${#architectures[@]} = 0 ] || refuse "\`--update\` writes the table of all architectures; name none"
whole=0
[ ${#architectures[@]} -gt 0 ] || { whole=1; architectures=(80 90a 100 120); }

nvcc=$(absolute "${NVCC:-nvcc}")
command -v "$nvcc" >/dev/null || refuse "\`$nvcc\` was not found; scripts/get-nvcc.sh fetches it"
nvdisasm=
if [ $disassembly = 1 ]; then
  nvdisasm=$(absolute "${NVDISASM:-nvdisasm}")
  beside=$(dirname "$(command -v "$nvcc")")/nvdisasm
  [ -n "${NVDISASM:-}" ] || [ ! -x "$beside" ] || nvdisasm=$beside
  command -v "$nvdisasm" >/dev/null \
    || refuse "\`$nvdisasm\` was not found; scripts/get-nvcc.sh --with-nvdisasm fetches it, --without-disassembly does without"
fi

cd "$root"
ls kernels/*.cu >/dev/null 2>&1 || refuse "there is no kernel in \`$root/kernels\`"
cache=target/check-kernels
mkdir -p "$cache"

# The options of the build, from the one place where they stand, less the form of the output.
flags=$(sed -n '/^const FLAGS/,/;$/p' "$repository/build/nvcc.rs" | grep -o '"[^"]*"' | tr -d '"' | grep -v -e '^-fatbin$' -e '^--threads' | tr '\n' ' ')
[ -n "$flags" ] || refuse "build/nvcc.rs has no list of options"

version() { "$1" --version | sed -n 's/.*, V\([0-9.]*\).*/\1/p'; }
compiler=$(version "$nvcc")
headers=$(cat $(ls kernels/*.h kernels/*.cuh tests/instructions/*.h 2>/dev/null) | sha256sum)
# Kernels of the tests are named with their folder, so that a star stands for kernels of the program alone.
prefix_of() { case $1 in tests/*) echo tests/ ;; esac; }

# built SOURCE: the folder of what cargo's build made of the source, where it was made from what stands now.
built() {
  local folder=target/compiled-kernels/$(basename "$1" .cu).device
  local LC_ALL=C
  if { shopt -s nullglob; printf '%s\n%s\n' "$compiler" "${flags% }"; cat kernels/*.h kernels/*.cuh tests/instructions/*.h "$1"; } \
    | cmp -s - "$folder/made-from"; then
    echo "$folder"
  fi
}

# assemble SOURCE INPUT VIRTUAL ARCHITECTURE BUILT: leaves NAME.log, ptxas's words, and NAME.opcodes, lines `kernel architecture opcode count`.
assemble() {
  local name=$cache/$(basename "$1" .cu).$4
  if [ -n "$5" ] && [ -e "$5/sm_$4.cubin" ]; then
    cp "$5/sm_$4.cubin" "$name.cubin"
    # What ptxas said of all architectures stands in one report.
    awk -F "'" -v architecture="sm_$4" '/Compiling entry function/ { own = $4 == architecture } own' "$5/report" >"$name.log"
  else
    # shellcheck disable=SC2086  # the options are several words
    "$nvcc" -cubin $flags -Xptxas -v -I kernels -gencode "arch=compute_$3,code=sm_$4" "$2" -o "$name.cubin" >"$name.log" 2>&1 \
      || { cat "$name.log" >&2; return 1; }
  fi
  : >"$name.opcodes"
  if [ -n "$nvdisasm" ]; then
    "$nvdisasm" -c "$name.cubin" >"$name.sass" || return 1
    awk -v architecture="sm_$4" -v prefix="$(prefix_of "$1")" '
      /\.section[ \t]+\.text\./ { kernel = $2; sub(/^\.text\./, "", kernel); sub(/,.*/, "", kernel); next }
      /^[ \t]+\/\*[0-9a-f]+\*\/[ \t]/ {
        opcode = $2
        if (opcode ~ /^@/) opcode = $3
        sub(/;$/, "", opcode)
        ++count[prefix kernel "\t" architecture "\t" opcode]
      }
      END { for (key in count) print key "\t" count[key] }' "$name.sass" | sort >"$name.opcodes"
  fi
  rm -f "$name.cubin" "$name.sass"
}

# compile SOURCE ARCHITECTURE...: what stands from the same files by the same command stays. GPUs that run the PTX of 9.0 share one.
compile() {
  local source=$1 input=$1 architecture virtual name key content built
  content=$(sha256sum <"$source")
  built=$(built "$source")
  shift
  for architecture; do
    name=$cache/$(basename "$source" .cu)
    key="$stamp $architecture $content"
    [ "$(cat "$name.$architecture.key" 2>/dev/null)" != "$key" ] || continue
    rm -f "$name.$architecture.key"
    virtual=$architecture
    if [[ $architecture = 1[0-9][0-9] ]]; then
      virtual=90
      if [ "$input" != "$source" ]; then
        : # The architecture before had the PTX made.
      elif [ -n "$built" ] && [ -e "$built/compute_90.ptx" ]; then
        cp "$built/compute_90.ptx" "$name.ptx"
      else
        # shellcheck disable=SC2086
        "$nvcc" -ptx $flags -I kernels -gencode arch=compute_90,code=compute_90 "$source" -o "$name.ptx" >"$name.ptx.log" 2>&1 \
          || { cat "$name.ptx.log" >&2; return 1; }
      fi
      input=$name.ptx
    fi
    assemble "$source" "$input" "$virtual" "$architecture" "$built" || return 1
    echo "$key" >"$name.$architecture.key"
  done
  [ "$input" = "$source" ] || rm -f "$input" "$input.log"
}
# What was compiled holds for the same compiler, options, headers, disassembler and way of compiling.
stamp="$compiler $flags $headers ${nvdisasm:+$(version "$nvdisasm")} $(declare -f prefix_of built assemble compile | sha256sum)"
export compiler nvcc nvdisasm cache flags stamp
export -f prefix_of built assemble compile

# Longest files first: their compilations are the longest too. Of the tests, the product that shows the instructions of sm_90a.
jobs=()
from_ptx=()
for architecture in "${architectures[@]}"; do
  [[ $architecture != 1[0-9][0-9] ]] || from_ptx+=("$architecture")
done
pairs=()
for source in $(ls -S kernels/*.cu); do
  for architecture in "${architectures[@]}"; do
    pairs+=("$source" "$architecture")
    [[ $architecture = 1[0-9][0-9] ]] || jobs+=("$source $architecture")
  done
  [ ${#from_ptx[@]} = 0 ] || jobs+=("$source ${from_ptx[*]}")
done
shown=tests/instructions/group_gemm.cu
if [ -e $shown ] && printf '%s\n' "${architectures[@]}" | grep -qx 90a; then
  pairs+=("$shown" 90a)
  jobs+=("$shown 90a")
fi
# shellcheck disable=SC2016  # the inner shell expands
printf '%s\0' "${jobs[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c 'set -euo pipefail; compile $1' compile \
  || { say "a kernel does not compile"; exit 1; }

logs=()
opcodes=()
for ((i = 0; i < ${#pairs[@]}; i += 2)); do
  name=$cache/$(basename "${pairs[i]}" .cu).${pairs[i + 1]}
  logs+=("$name.log")
  opcodes+=("$name.opcodes")
done

# Bytes of dynamic shared memory that parameters.h states, as `norm 2112`: the stem stands in the names of the kernels that take them.
sed -n 's/^#define GRIDPOINT_\([A-Z0-9_]*\)_SHARED_BYTES \([0-9]*\)u*$/\1 \2/p' kernels/parameters.h | tr '[:upper:]' '[:lower:]' >"$cache/dynamic"

# What was found, a line a kernel and architecture: kernel, architecture, registers, static, dynamic, constant, stack, spilled.
# A function that was not inlined into its kernel reports frame and spills under its own name: they count as the kernel's.
awk -v dynamic_file="$cache/dynamic" -v shown="$cache/$(basename $shown .cu)." '
  BEGIN {
    OFS = "\t"
    while ((getline line < dynamic_file) > 0) { split(line, part, " "); stated[part[1]] = part[2] }
  }
  function dynamic_of(kernel, stem, best, bytes) {
    best = ""
    bytes = "-"
    for (stem in stated) {
      if (index("_" kernel "_", "_" stem "_") && length(stem) > length(best)) { best = stem; bytes = stated[stem] }
    }
    return bytes
  }
  /Compiling entry function/ { split($0, part, "\047"); kernel = (index(FILENAME, shown) == 1 ? "tests/" : "") part[2]; architecture = part[4]; frame = spilled = 0; next }
  /bytes stack frame/ {
    for (i = 2; i < NF; ++i) {
      if ($i == "bytes" && $(i + 1) == "stack") frame += $(i - 1)
      if ($i == "bytes" && $(i + 1) == "spill") spilled += $(i - 1)
    }
    next
  }
  /Used [0-9]+ registers/ {
    registers = static = 0
    constant = "-"
    for (i = 2; i <= NF; ++i) {
      if ($i ~ /^registers/) registers = $(i - 1)
      if ($i == "bytes" && $(i + 1) ~ /^smem/) static = $(i - 1)
      if ($i == "bytes" && $(i + 1) ~ /^cmem/) constant += $(i - 1)
    }
    print kernel, architecture, registers, static, dynamic_of(kernel), constant, frame, spilled
  }' "${logs[@]}" | LC_ALL=C sort -t "$(printf '\t')" -k 1,1 -k 2,2 >"$cache/found"
[ -s "$cache/found" ] || { say "the assembler named no kernel"; exit 1; }

budget=kernels/budget.tsv
if [ $update = 1 ]; then
  {
    printf '# The most that ptxas may report, and what a launch adds; scripts/check-kernels.sh --update writes this file.\n'
    printf '# nvcc %s; bytes; - is: not stated. Stack and spills are nowhere allowed.\n' "$compiler"
    printf '# kernel\tarchitecture\tregisters\tstatic_shared\tdynamic_shared\tconstant\n'
    cut -f 1-6 "$cache/found"
  } >"$budget"
fi
[ -e "$budget" ] || { say "there is no \`$root/$budget\`; --update writes it"; exit 1; }

# Compares: budget, found, required instructions, opcodes. Each file is told by its place in the list.
instructions=kernels/instructions.tsv
[ -e "$instructions" ] || instructions=/dev/null
failed=0
cat "${opcodes[@]}" >"$cache/opcodes"
awk -F '\t' -v script=check-kernels.sh -v names="${architectures[*]}" -v whole="$whole" -v disassembled="${nvdisasm:+1}" '
  function breach(sentence) { print script ": " sentence > "/dev/stderr"; ++breaches }
  function over(what, found, allowed) {
    if (found == "-" && allowed == "-") return
    if (allowed == "-" || found + 0 > allowed + 0) breach(where " has " found " " what ", allowed are " allowed)
    else if (found == "-" || found + 0 < allowed + 0) print where " has " found " " what ", fewer than the " allowed " allowed: --update would lower the budget"
  }
  # A pattern of names with stars, as a regular expression.
  function expression(pattern) { gsub(/[.+?()|^$\[\]{}\\]/, "\\\\&", pattern); gsub(/\*/, "[^/]*", pattern); return "^" pattern "$" }
  BEGIN { count = split(names, list, " "); for (i = 1; i <= count; ++i) chosen["sm_" list[i]] = 1 }
  FNR == 1 { ++file }
  /^#/ || NF == 0 { next }
  FILENAME == "kernels/budget.tsv" {
    if (NF != 6) { breach("line " FNR " of kernels/budget.tsv has " NF " fields, 6 are right"); next }
    key = $1 SUBSEP $2
    if (key in allowed_registers) breach("kernel `" $1 "` on " $2 " stands twice in kernels/budget.tsv")
    allowed_registers[key] = $3; allowed_static[key] = $4; allowed_dynamic[key] = $5; allowed_constant[key] = $6
    next
  }
  FILENAME ~ /\/found$/ {
    key = $1 SUBSEP $2
    where = "kernel `" $1 "` on " $2
    compiled[key] = 1
    ++kernels
    if ($7 + 0 > 0) breach(where " has " $7 " bytes of stack, allowed are 0")
    if ($8 + 0 > 0) breach(where " spills " $8 " bytes, allowed are 0")
    if (!(key in allowed_registers)) {
      breach(where " has " $3 " registers and no line in kernels/budget.tsv; --update writes it")
      next
    }
    over("registers", $3, allowed_registers[key])
    over("bytes of static shared memory", $4, allowed_static[key])
    over("bytes of constant memory", $6, allowed_constant[key])
    if ($5 != allowed_dynamic[key])
      breach(where " is launched with " $5 " bytes of dynamic shared memory by parameters.h, allowed are " allowed_dynamic[key])
    next
  }
  FILENAME == "kernels/instructions.tsv" {
    if (NF < 3) { breach("line " FNR " of kernels/instructions.tsv has " NF " fields, 3 are right"); next }
    ++rules
    rule_line[rules] = FNR; rule_kernel[rules] = expression($1); rule_architecture[rules] = expression($2); rule_opcode[rules] = $3
    rule_text[rules] = $1 " " $2 " " $3
    next
  }
  {
    key = $1 SUBSEP $2
    disassembled_kernel[key] = 1
    base = $3
    sub(/\..*/, "", base)
    present[key, $3] += $4
    if (base != $3) present[key, base] += $4
    if (base == "LDL" || base == "STL") local[key] += $4
  }
  END {
    for (key in allowed_registers) {
      split(key, part, SUBSEP)
      if (!(key in compiled) && part[2] in chosen) breach("kernel `" part[1] "` on " part[2] " stands in kernels/budget.tsv and is not there; --update drops it")
    }
    if (disassembled) {
      for (key in compiled) {
        split(key, part, SUBSEP)
        where = "kernel `" part[1] "` on " part[2]
        if (!(key in disassembled_kernel)) breach(where " has no disassembly")
        if (key in local) breach(where " has " local[key] " instructions LDL or STL, allowed are 0")
        for (rule = 1; rule <= rules; ++rule) {
          if (part[1] !~ rule_kernel[rule] || part[2] !~ rule_architecture[rule]) continue
          rule_used[rule] = 1
          if (!((key, rule_opcode[rule]) in present)) breach(where " has 0 instructions " rule_opcode[rule] ", line " rule_line[rule] " of kernels/instructions.tsv asks for 1 or more")
        }
      }
      for (rule = 1; rule <= rules; ++rule) {
        if (rule_used[rule]) continue
        fits = 0
        for (architecture in chosen) if (architecture ~ rule_architecture[rule]) fits = 1
        if (fits || whole) breach("line " rule_line[rule] " of kernels/instructions.tsv (" rule_text[rule] ") fits no kernel")
      }
    }
    printf "%d kernels in machine code, %d breaches, instructions %s\n", kernels, breaches, disassembled ? "read" : "not read"
    exit breaches > 0
  }' "$budget" "$cache/found" "$instructions" "$cache/opcodes" || failed=1

if [ $failed = 1 ]; then
  made=$(sed -n 's/^# nvcc \([0-9.]*\);.*/\1/p' "$budget")
  [ "${made:-$compiler}" = "$compiler" ] || say "kernels/budget.tsv was made with nvcc $made, this is nvcc $compiler"
fi
exit $failed
