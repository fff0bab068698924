#!/usr/bin/env bash
# Checks everything about NVIDIA GPUs on a machine that has one, in one go:
#
#   bench/gpu.sh [--work DIR] [--rehearse]
#
# Works in a copy of this checkout in a temporary folder (7.5 GB of disk; 2.8 GB to download), so that neither the
# checkout nor the cache of the user changes. --work DIR: in DIR, which is kept and used again. --rehearse: the same
# on the CPU, to try the script itself. Prints a line for each check, PASS, FAIL, SKIP or INFO, and a summary.
# Exit code: 0 every check passed; 1 one failed; 2 there is no GPU here, or the checks could not begin.
set -euo pipefail

readonly MEMORY_BOUND_MIB=4096 # a small model with memory growth; without growth it would be most of the GPU
readonly LOSS_TOLERANCE=0.005  # what a refresh can make of rounding (docs/architecture.md, "Why N trainers equal one")
readonly STEPS=30

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=''
is_kept=no
device=gpu:0
while (($# > 0)); do
  case $1 in
    --work)
      [[ $# -ge 2 ]] || { echo 'gpu.sh: --work needs a folder' >&2; exit 2; }
      work=$2 is_kept=yes
      shift 2
      ;;
    --rehearse)
      device=cpu
      shift
      ;;
    -h | --help)
      sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *)
      echo "gpu.sh: $1 is no option; --help shows them" >&2
      exit 2
      ;;
  esac
done
is_rehearsal=no
[[ $device == cpu ]] && is_rehearsal=yes

passed=0 failed=0 skipped=0
pass() { passed=$((passed + 1)); echo "PASS $*"; }
skip() { skipped=$((skipped + 1)); echo "SKIP $*"; }
info() { echo "INFO $*"; }
# fail NAME [LOG]: the end of the log says why.
fail() {
  failed=$((failed + 1))
  echo "FAIL $1"
  if [[ -n ${2:-} && -f $2 ]]; then tail -n 15 "$2" | sed 's/^/     | /'; fi
}

# ---- what this program started, and left ----

children=()
finish() {
  local code=$?
  trap - EXIT
  local pid
  for pid in "${children[@]:-}"; do
    if [[ -n $pid ]] && kill "$pid" 2>/dev/null; then wait "$pid" || true; fi
  done
  [[ $is_kept == yes || -z $work ]] || rm -rf "$work"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# ---- is there a GPU? ----

if [[ $is_rehearsal == no ]]; then
  if ! command -v nvidia-smi >/dev/null; then
    echo 'no GPU here: nvidia-smi, which comes with the driver, is not installed'
    exit 2
  fi
  if ! gpus=$(nvidia-smi --query-gpu=index,name,memory.total,compute_cap,driver_version --format=csv,noheader 2>&1); then
    echo "no GPU here: nvidia-smi says: $gpus"
    exit 2
  fi
  gpu_count=$(grep -c '^[0-9]' <<<"$gpus" || true)
  if ((gpu_count == 0)); then
    echo 'no GPU here: nvidia-smi lists none'
    exit 2
  fi
  while read -r line; do info "gpu:$line"; done <<<"$gpus"
else
  info 'rehearsal: everything on the CPU'
  gpu_count=0
fi
if ! command -v node >/dev/null; then
  echo 'gpu.sh: node is not installed'
  exit 2
fi

# ---- a copy of the checkout with a tfjs package of its own, which an installation links its engine into ----

if ! node "$root/scripts/setup.mjs"; then
  echo 'gpu.sh: the set-up failed'
  exit 2
fi
if [[ -z $work ]]; then work=$(mktemp -d "${TMPDIR:-/tmp}/galore-gpu-XXXXXX"); fi
mkdir -p "$work"
work=$(cd "$work" && pwd)
tree=$work/tree logs=$work/logs
rm -rf "$tree" "$logs"
mkdir -p "$tree/node_modules/@tensorflow" "$logs"
cp -r "$root"/{bin,dist,docs,examples,package.json,proto,scripts,src,test} "$tree/"
modules=$(cd "$root/node_modules" && pwd -P)
for path in "$modules"/* "$modules/.bin"; do
  [[ $(basename "$path") == @tensorflow ]] || ln -s "$path" "$tree/node_modules/"
done
for path in "$modules"/@tensorflow/*; do
  [[ $(basename "$path") == tfjs-node-gpu ]] || ln -s "$path" "$tree/node_modules/@tensorflow/"
done
cp -r "$modules/@tensorflow/tfjs-node-gpu" "$tree/node_modules/@tensorflow/"
rm -rf "$tree/node_modules/@tensorflow/tfjs-node-gpu/lib/napi-v8"
export GALORE_CACHE_DIR=$work/cache
cd "$tree"
galore() { node "$tree/bin/galore.js" "$@"; }
# json FILE EXPRESSION: the value of a JavaScript expression over the last JSON line of the file, `r`.
json() {
  node -e '
    const lines = require("fs").readFileSync(process.argv[1], "utf8").trim().split("\n");
    const r = JSON.parse(lines.findLast((line) => line.startsWith("{")));
    console.log(eval(process.argv[2]));
  ' "$1" "$2"
}
# holds EXPRESSION: whether a JavaScript expression is true.
holds() { [[ $(node -p "$1") == true ]]; }

# ---- installation ----

start=$SECONDS
if [[ $is_rehearsal == yes ]]; then install=(engine install); else install=(engine install --gpu); fi
if galore "${install[@]}" >"$logs/install" 2>&1; then
  pass "installation: galore ${install[*]}, $((SECONDS - start)) s, $(du -sm "$GALORE_CACHE_DIR" | cut -f1) MB on disk"
else
  fail "installation: galore ${install[*]}" "$logs/install"
  echo "summary: the engine is not installed, nothing else was checked"
  exit 1
fi
if galore "${install[@]}" >"$logs/again" 2>&1 && grep -q 'installed and undamaged' "$logs/again"; then
  pass 'a second installation finds everything in place'
else
  fail 'a second installation finds everything in place' "$logs/again"
fi

# ---- the check, and what it refuses ----

if galore engine check --device "$device" --json >"$logs/check" 2>"$logs/check.err"; then
  kind=$(json "$logs/check" r.kind)
  if [[ $kind == "${device%%:*}" ]]; then
    pass "engine check: $(json "$logs/check" '[r.kind, r.device, r.flavour + " build", ...r.speeds.map((s) => s.precision + " " + s.gflops.toFixed(0) + " GFLOP/s")].join(", ")')"
  else
    fail "engine check computes on $device: it says $kind" "$logs/check"
  fi
else
  fail "engine check --device $device" "$logs/check.err"
fi
if galore engine check --device cpu --json >"$logs/check-cpu" 2>"$logs/check-cpu.err" &&
  [[ $(json "$logs/check-cpu" 'r.kind + r.flavour') == cpucpu ]]; then
  pass 'the CPU build works beside it'
else
  fail 'the CPU build works beside it' "$logs/check-cpu.err"
fi
code=0
galore engine check --device gpu:99 >"$logs/gpu99" 2>&1 || code=$?
if [[ $code == 3 ]] && grep -q 'gpu:99 was asked for, and' "$logs/gpu99"; then
  pass "a GPU that is not there is refused: $(tail -n 1 "$logs/gpu99")"
else
  fail "gpu:99 is refused with exit code 3 (it was $code)" "$logs/gpu99"
fi

# ---- matrix products ----

for precision in f32 bf16; do
  log=$logs/products-$precision
  if ! node dist/bench/products.js "$device" "$precision" >"$log" 2>"$log.err"; then
    fail "matrix products in $precision" "$log.err"
    continue
  fi
  error=$(json "$log" 'r.error.toExponential(1)') gflops=$(json "$log" 'r.gflops.toFixed(0)')
  if [[ $precision == f32 ]]; then bound='e < 1e-6'; else bound='e < 5e-3'; fi
  if holds "e = $error, $bound"; then
    pass "matrix products in $precision: error $error, $gflops GFLOP/s"
  else
    fail "matrix products in $precision: error $error is too large" "$log"
  fi
  if [[ $precision == bf16 ]]; then
    if holds "$error > 1e-5"; then info 'bf16 products run on tensor cores'; else info 'bf16 products run in f32'; fi
  fi
done

# ---- golden vectors and the tests of the model, on the device ----

ava=$(readlink -f "$tree/node_modules/ava")/entrypoints/cli.mjs
for set in 'vectors/{adamw,galore-adamw,llama-tiny,methods}' 'trainer/model/**/*'; do
  log=$logs/tests-$(tr -c 'a-z\n' - <<<"$set")
  if GALORE_DEVICE=$device node "$ava" "dist/test/$set.test.js" --no-worker-threads --concurrency=1 \
    "--node-arguments=--import=$tree/dist/bench/on-device.js" >"$log" 2>&1; then
    pass "tests on $device: test/$set, $(grep -o '[0-9]* tests\{0,1\} passed' "$log" | tail -n 1)"
  else
    fail "tests on $device: test/$set" "$log"
  fi
done

# ---- training ----

cat docs/*.md >"$work/corpus.txt"
cat >"$work/run.yaml" <<YAML
name: gpu
model: {hidden_size: 64, intermediate_size: 176, num_hidden_layers: 2, num_attention_heads: 4}
data: {path: $work/corpus.txt, validation_fraction: 0}
tokenizer: {type: byte}
seq_len: 64
batch_size: 8
method: {update_proj_gap: 10, rank: 16}
wire: {codec: f32}
steps: $STEPS
evaluation: {every: 0, sequences: 8}
checkpoint: {every: 0}
YAML
# start_training NAME TRAINERS DEVICE: in the background, where an interruption of this program can end it.
training=''
start_training() {
  rm -rf "$work/runs/$1"
  timeout 900 node "$tree/bin/galore.js" train "$work/run.yaml" --dir "$work/runs/$1" --trainers "$2" --device "$3" \
    --set coordinator.port=0 >"$logs/train-$1" 2>&1 &
  training=$!
  children=("$training")
}
train() {
  start_training "$@"
  wait "$training"
}
# losses NAME: the largest difference of its losses from those of the run on the CPU.
losses() {
  # shellcheck disable=SC2016 # ${…} are JavaScript’s
  node -e '
    const [a, b] = process.argv.slice(1).map((run) => require("fs").readFileSync(run + "/metrics.jsonl", "utf8")
      .trim().split("\n").map((line) => JSON.parse(line)).filter(({ loss, step }) => step > 0 && Number.isFinite(loss)));
    const of = (lines) => new Map(lines.map(({ step, loss }) => [step, loss]));
    const [x, y] = [of(a), of(b)];
    if (x.size === 0 || x.size !== y.size) throw new Error(`${x.size} and ${y.size} steps`);
    console.log(Math.max(...[...x].map(([step, loss]) => Math.abs(loss - y.get(step)))));
  ' "$work/runs/cpu" "$work/runs/$1"
}
# compare NAME WHAT
compare() {
  local difference
  if ! difference=$(losses "$1" 2>"$logs/losses-$1"); then
    fail "$2: its losses cannot be compared" "$logs/losses-$1"
  elif holds "$difference <= $LOSS_TOLERANCE"; then
    pass "$2: losses within $(node -p "($difference).toExponential(1)") of the CPU’s over $STEPS steps"
  else
    fail "$2: losses differ by $difference from the CPU’s; $LOSS_TOLERANCE is allowed"
  fi
}
# Memory in use on gpu:0, in MiB; 0 where the driver does not tell.
used_mib() {
  nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits --id=0 2>/dev/null | grep -m 1 -x '[0-9]*' || echo 0
}

if ! train cpu 1 cpu; then
  fail 'a run on the CPU, to compare with' "$logs/train-cpu"
else
  before=0 peak=0
  [[ $is_rehearsal == yes ]] || before=$(used_mib)
  start_training device 1 "$device"
  while kill -0 "$training" 2>/dev/null; do
    if [[ $is_rehearsal == no ]]; then
      now=$(used_mib)
      if ((now > peak)); then peak=$now; fi
    fi
    sleep 0.5
  done
  if wait "$training"; then
    compare device "one trainer on $device"
    if [[ $is_rehearsal == yes ]]; then
      skip 'memory growth: rehearsal'
    elif ((peak == 0)); then
      skip 'memory growth: nvidia-smi does not tell how much memory is in use'
    elif ((peak - before <= MEMORY_BOUND_MIB)); then
      pass "memory growth: at most $((peak - before)) MiB more in use than before"
    else
      fail "memory growth: $((peak - before)) MiB more in use than before; $MEMORY_BOUND_MIB are allowed"
    fi
  else
    fail "one trainer on $device" "$logs/train-device"
  fi
  if train again 1 "$device"; then
    weights() { grep -o 'weights sha256: [0-9a-f]*' "$logs/train-$1" || echo none; }
    if [[ $(weights device) == "$(weights again)" ]]; then same='the same bits'; else same='other bits'; fi
    info "the same run twice on $device gives $same"
  fi
  if train two 2 "$device"; then
    compare two "two trainers on $device"
    if [[ $is_rehearsal == no ]] && ! grep -q "share $device" "$logs/train-two"; then
      fail "train says that two trainers share $device" "$logs/train-two"
    fi
  else
    fail "two trainers on $device" "$logs/train-two"
  fi
  if ((gpu_count >= 2)); then
    if train each 2 auto && ! grep -q ' share ' "$logs/train-each"; then
      compare each 'a trainer on each of two GPUs'
    else
      fail 'a trainer on each of two GPUs' "$logs/train-each"
    fi
  else
    skip "a trainer on each of two GPUs: there are $gpu_count"
  fi
fi

# ---- figures ----

if galore bench step --help >"$logs/bench-help" 2>&1 && grep -q -- '--device' "$logs/bench-help"; then
  if timeout 900 node "$tree/bin/galore.js" bench step --device "$device" >"$logs/bench" 2>"$logs/bench.err"; then
    pass 'galore bench step'
    while read -r line; do info "bench: $line"; done <"$logs/bench"
  else
    fail 'galore bench step' "$logs/bench.err"
  fi
else
  skip 'galore bench step: this version has none'
fi

[[ $is_rehearsal == no ]] || device='the CPU (a rehearsal: no GPU was checked)'
echo "summary: $passed passed, $failed failed, $skipped skipped on $device"
((failed == 0))
