#!/usr/bin/env bash
# One host of a TPU slice: launch/tpu_vm.sh copies the code there and calls this on every host at once.
#
#     launch/worker.sh setup [WHEELHOUSE]   Python, this package and JAX for TPU, in .venv beside the code
#     launch/worker.sh start FLAGS...       python -m cover_jax.main FLAGS..., detached from the connection that started it
#     launch/worker.sh rehearse FLAGS...    the same once, prints what it prints and ends with its exit code
#     launch/worker.sh state                one line: "host: " and bare, ready, running, lost or exit CODE
#     launch/worker.sh log                  what main has printed, and what it prints from now on
#     launch/worker.sh stop                 has main save a checkpoint and end; returns when it is gone
#     launch/worker.sh wheelhouse FILE      writes a WHEELHOUSE; on a Linux machine with internet
#
# A WHEELHOUSE, gs://BUCKET/FILE.tar.gz, has everything that setup needs. Without one the hosts fetch it from the internet.
# The files of the run (log, pid, exit_code) are in $COVER_RUN_DIR (~/cover-run), those of a rehearsal in its folder rehearsal.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

run_dir=${COVER_RUN_DIR:-$HOME/cover-run}
readonly PYTHON_VERSION=3.11 # the version of the tests; the images of TPU VMs may have another one
readonly UV_VERSION=0.13.9   # also decides which 3.11.x is installed, so that all hosts have the same
export UV_PYTHON_PREFERENCE=only-managed PYTHON="$PWD/.venv/bin/python"
mkdir -p "$run_dir"

# uv installs Python without root, whatever the image has.
install_uv() {
  export PATH="$HOME/.local/bin:$PATH"
  [[ $(uv --version 2>/dev/null) == "uv $UV_VERSION"* ]] || curl -LsSf "https://astral.sh/uv/$UV_VERSION/install.sh" | sh
}

# The interpreter in the folder of a wheelhouse.
python_of() { echo "$1"/python/cpython-"$PYTHON_VERSION".*/bin/python"$PYTHON_VERSION"; }

# Unpacks a wheelhouse; then nothing is fetched from the internet.
use_wheelhouse() {
  local here=$HOME/cover-wheelhouse
  rm -rf "$here" && mkdir "$here"
  gcloud storage cat "$1" | tar -xz -C "$here"
  export PATH="$here:$PATH" UV_OFFLINE=1 UV_PYTHON_DOWNLOADS=never UV_NO_INDEX=1 UV_FIND_LINKS="$here/wheels"
  unset UV_PYTHON_PREFERENCE
  python=$(python_of "$here")
}

setup() {
  local python=$PYTHON_VERSION
  if [[ -n ${1:-} ]]; then use_wheelhouse "$1"; else install_uv; fi
  uv venv --quiet --clear --python "$python" .venv
  uv pip install --quiet --python "$PYTHON" --constraint launch/constraints.txt -e '.[tpu]'
  touch "$run_dir/ready"
}

wheelhouse() {
  local folder python
  [[ $(uname -sm) == "Linux x86_64" ]] || { echo "error: $(uname -sm): should be Linux x86_64, as the hosts" >&2 && exit 1; }
  folder=$(mktemp -d)
  install_uv
  cp "$(command -v uv)" "$folder"
  uv python install --quiet --install-dir "$folder/python" "$PYTHON_VERSION"
  python=$(python_of "$folder")
  "$python" -m pip wheel --quiet --constraint launch/constraints.txt --wheel-dir "$folder/wheels" '.[tpu]' setuptools
  tar -czf "$1" -C "$folder" .
  rm -rf "$folder"
}

# Prints the process id of main, or of the script that repeats it, if it runs. Also checks the name: after a reboot another
# process may have the number.
running() {
  [[ -e $1/pid && $(ps -ww -o args= -p "$(<"$1/pid")") =~ again\.sh|cover_jax\.main ]] && cat "$1/pid"
}

keep_running() {
  local status=0
  trap '' HUP # who starts it may log out
  "$@" &
  echo $! >"$run_dir/pid"
  wait $! || status=$?
  echo "$status" >"$run_dir/exit_code"
}

# Starts a command, detached from the connection.
detach() {
  rm -f "$run_dir/pid" "$run_dir/exit_code"
  keep_running "$@" </dev/null >>"$run_dir/log" 2>&1 &
  until [[ -e $run_dir/pid ]]; do sleep 0.1; done
}

# A TPU serves one process.
refuse_second() {
  local pid folder
  for folder in "$run_dir" "$run_dir/rehearsal"; do
    if pid=$(running "$folder"); then echo "error: process $pid still runs here, stop it first" >&2 && exit 1; fi
  done
}

start() {
  refuse_second
  detach launch/again.sh "$@"
}

rehearse() {
  refuse_second
  run_dir+=/rehearsal
  rm -rf "$run_dir" && mkdir "$run_dir" && touch "$run_dir/log"
  detach "$PYTHON" -m cover_jax.main "$@"
  tail -n +1 -f --pid="$(<"$run_dir/pid")" "$run_dir/log"
  until [[ -s $run_dir/exit_code ]]; do sleep 0.1; done
  exit "$(<"$run_dir/exit_code")"
}

state() {
  if [[ ! -e $run_dir/ready ]]; then
    echo "host: bare"
  elif [[ -e $run_dir/exit_code ]]; then
    echo "host: exit $(<"$run_dir/exit_code")"
  elif running "$run_dir" >/dev/null; then
    echo "host: running"
  elif [[ -e $run_dir/pid ]]; then
    echo "host: lost" # no exit code was written: the machine stopped while main ran
  else
    echo "host: ready"
  fi
}

log() {
  touch "$run_dir/log"
  exec tail -n +1 -F "$run_dir/log"
}

stop() {
  local pid folder
  for folder in "$run_dir" "$run_dir/rehearsal"; do
    pid=$(running "$folder") || continue
    kill -TERM "$pid"
    while running "$folder" >/dev/null; do sleep 0.2; done
  done
}

command=${1:-}
case $command in
  setup | start | rehearse | state | log | stop | wheelhouse) shift && "$command" "$@" ;;
  *) echo "error: '$command' should be setup, start, rehearse, state, log, stop or wheelhouse" >&2 && exit 1 ;;
esac
