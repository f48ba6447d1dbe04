#!/usr/bin/env bash
# Trains in several processes on this machine's CPU, like a pod on a small scale.
#
#     launch/local.sh [--dry-run] PROCESSES FLAGS_OF_MAIN...
#     launch/local.sh 2 --config=configs/demo.py --workdir=/tmp/cover_demo
#
# Each process has JAX_NUM_CPU_DEVICES devices (1 unless set). Ctrl-C saves a checkpoint, and so does closing the terminal; a
# second Ctrl-C ends all processes at once. The same command continues from the newest checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=lib.sh
source launch/lib.sh

# A port that is free now, chosen by the kernel.
free_port() {
  "${PYTHON:-python}" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

labelled() {
  local line
  trap '' TERM INT HUP # main ends first, and its last output must still be printed
  while IFS= read -r line; do printf '[%s] %s\n' "$1" "$line" || true; done
}

if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
[[ ${1:-} != --help ]] || { usage && exit; }
processes=${1:-}
[[ $processes =~ ^[1-9][0-9]*$ ]] || die "PROCESSES is '$processes': should be a number from 1 (see launch/local.sh --help)"
shift
check_flags "$@"
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="${JAX_NUM_CPU_DEVICES:-1}"
# Huge pages for the arrays of a step, which glibc requests from the kernel in every step. They save 15 % of the CPU time
# of a training step on one core (two B/16 blocks, 8 frames of 112 px): 745 ms without, 634 ms with them. Page faults were
# 17 % of the time without, and 4 % with them.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
port=$(free_port)

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT HUP
for ((id = 0; id < processes; id++)); do
  process=("$@" --coordinator="127.0.0.1:$port" --num_processes="$processes" --process_id="$id")
  if $dry_run; then
    quoted launch/again.sh "${process[@]}"
  else
    launch/again.sh "${process[@]}" > >(labelled "$id") 2>&1 &
    pids+=($!)
  fi
done
status=0
for pid in "${pids[@]}"; do
  wait_for "$pid" || status=$?
done
exit "$status"
