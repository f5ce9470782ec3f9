#!/usr/bin/env bash
# All that a call on a GPU should say, in under 10 minutes (LIMIT, seconds): a process and a time limit a part, JSON lines as they
# come, what was predicted beside. Parts that do not fit are named, for a second call: bash bench/gpu_run.sh OUT PART ...
#   bash bench/gpu_run.sh OUT [PART ...]     OUT: a folder; PYTHON: one with torch and CUDA (python3)
# The study's part needs hpo's dependencies too.
set -u
cd "$(dirname "$0")/.."
out=${1:?bench/gpu_run.sh OUT [PART ...]}
shift
python=${PYTHON:-python3}
limit=${LIMIT:-590}
mkdir -p "$out"

part() {  # seconds, name, command: its lines go to OUT/gpu.log and, cut off, to the screen
  local seconds=$1 name=$2 begun=$SECONDS left=$((limit - SECONDS))
  shift 2
  if ((left < 20)); then
    echo "== $name: no time left, call it alone" | tee -a "$out/gpu.log"
    return
  fi
  echo "== $name" | tee -a "$out/gpu.log"
  timeout --kill-after=5 "$((seconds < left ? seconds : left))" "$@" 2>&1 | tee -a "$out/gpu.log" | cut -c1-300 | tail -n 40
  echo "== $name: exit ${PIPESTATUS[0]}, $((SECONDS - begun)) s" | tee -a "$out/gpu.log"
}

about() {
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,temperature.gpu,power.draw --format=csv
  grep -m1 'model name' /proc/cpuinfo
  "$python" -c 'import torch, triton; print(torch.__version__, torch.version.cuda, triton.__version__)'
}

export -f about
export python
run() {
  case $1 in
    about) part 30 about bash -c about ;;
    tests) part 100 tests "$python" -m pytest -p no:cacheprovider -q --tb=short tests/training/test_cuda.py ;;
    right) part 60 right "$python" -m bench.gpu right ;;
    ceilings) part 30 ceilings "$python" -m bench.gpu ceilings ;;
    sweep) part 120 sweep "$python" -m bench.gpu sweep --models ws ;;
    again) part 60 again "$python" -m bench.gpu sweep --lanes 8 64 256 --ways 'graph, kernels' 'graph, TF32, kernels' ;;
    others) part 60 others "$python" -m bench.gpu sweep --models simple ws-aux --lanes 8 64 --ways graph 'graph, kernels' 'graph, TF32, kernels' ;;
    whole) part 40 whole "$python" -m bench.gpu whole ;;
    profile) part 40 profile "$python" -m bench.gpu profile ;;
    learning) part 90 learning "$python" -m bench.gpu learning ;;
    shared) part 60 shared "$python" -m bench.gpu shared ;;
    tiles) part 60 tiles "$python" -m bench.gpu tiles ;;
    study) part 330 study "$python" -m bench.gpu study --out "$out" ;;
    *) echo "no part $1" ;;
  esac
}
if (($# == 0)); then set -- about tests right sweep whole study others learning ceilings profile shared tiles; fi
for one in "$@"; do run "$one"; done
