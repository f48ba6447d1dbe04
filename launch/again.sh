#!/usr/bin/env bash
# Runs `python -m cover_jax.main FLAGS...`, and repeats it while its exit code means that the same command can continue.
#
#     launch/again.sh --config=configs/demo.py --workdir=/tmp/cover_demo
#
# This script passes TERM and INT on to main. Then main saves a checkpoint, and nothing is started again.
# If main is killed, hangs or loses a host within $COVER_SHORT_S seconds (600) of its start, five times in a row, the script ends.
# The interpreter is $PYTHON, or `python`. The exit code is that of the last main. All codes are in
# cover_jax/fault_tolerance/README.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

stopping=false
short=0
trap 'stopping=true; [[ -z ${!:-} ]] || kill -TERM $! 2>/dev/null || true' TERM INT

# Whether main must be started again after $status, when it ran for $1 s.
goes_on() {
  if [[ $status == "$PREEMPTED" ]]; then
    short=0
    return
  fi
  [[ $status == "$LOST_PEER" || $status == "$HUNG" || $status == "$KILLED" ]] || return 1
  if (($1 < ${COVER_SHORT_S:-600})); then short=$((short + 1)); else short=0; fi
  ((short < 5))
}

while true; do
  started=$SECONDS
  "${PYTHON:-python}" -m cover_jax.main "$@" &
  status=0
  wait_for $! || status=$?
  note "again.sh: main ended with exit code $status"
  if $stopping || ! goes_on $((SECONDS - started)); then break; fi
done
exit "$status"
