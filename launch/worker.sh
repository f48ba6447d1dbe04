#!/usr/bin/env bash
# One host of a TPU slice: launch/tpu_vm.sh copies the code there and calls this on every host at once.
#
#     launch/worker.sh setup            Python, this package and JAX for TPU, in .venv beside the code
#     launch/worker.sh start FLAGS...   python -m cover_jax.main FLAGS..., detached from the connection that started it
#     launch/worker.sh state            one line: "host: " and bare, ready, running, lost or exit CODE
#     launch/worker.sh log              what main has printed, and what it prints from now on
#     launch/worker.sh stop             has main save a checkpoint and end; returns when it is gone
#
# The files of the run (log, pid, exit_code) are in $COVER_RUN_DIR (~/cover-run).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly RUN_DIR=${COVER_RUN_DIR:-$HOME/cover-run}
readonly PYTHON_VERSION=3.11 # the version of the tests; the images of TPU VMs may have an older one
mkdir -p "$RUN_DIR"

# uv downloads this Python version without root, whatever the image has.
setup() {
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  uv venv --quiet --clear --python "$PYTHON_VERSION" .venv
  uv pip install --quiet --python .venv/bin/python -e '.[tpu]'
  touch "$RUN_DIR/ready"
}

# Also checks the name of the process: after a reboot another process may have the number.
is_running() { [[ -e $RUN_DIR/pid && $(ps -o args= -p "$(<"$RUN_DIR/pid")") == *again.sh* ]]; }

keep_running() {
  local status=0
  trap '' HUP
  PYTHON="$PWD/.venv/bin/python" launch/again.sh "$@" &
  echo $! >"$RUN_DIR/pid"
  wait $! || status=$?
  echo "$status" >"$RUN_DIR/exit_code"
}

start() {
  ! is_running || { echo "error: process $(<"$RUN_DIR/pid") still runs here, stop it first" >&2 && exit 1; }
  rm -f "$RUN_DIR/pid" "$RUN_DIR/exit_code"
  keep_running "$@" </dev/null >>"$RUN_DIR/log" 2>&1 &
  until [[ -e $RUN_DIR/pid ]]; do sleep 0.1; done
}

state() {
  if [[ ! -e $RUN_DIR/ready ]]; then
    echo "host: bare"
  elif [[ -e $RUN_DIR/exit_code ]]; then
    echo "host: exit $(<"$RUN_DIR/exit_code")"
  elif is_running; then
    echo "host: running"
  elif [[ -e $RUN_DIR/pid ]]; then
    echo "host: lost" # no exit code was written: the machine stopped while main ran
  else
    echo "host: ready"
  fi
}

log() {
  touch "$RUN_DIR/log"
  exec tail -n +1 -F "$RUN_DIR/log"
}

stop() {
  is_running || return 0
  kill -TERM "$(<"$RUN_DIR/pid")"
  while is_running; do sleep 0.2; done
}

command=${1:-}
case $command in
  setup | start | state | log | stop) shift && "$command" "$@" ;;
  *) echo "error: '$command' should be setup, start, state, log or stop" >&2 && exit 1 ;;
esac
