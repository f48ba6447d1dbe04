#!/usr/bin/env bash
# Runs `python -m cover_jax.main FLAGS...`, and again for as long as its exit code says that the same command goes on.
#
#     launch/again.sh --config=configs/demo.py --workdir=/tmp/cover_demo
#
# TERM or INT to this script goes on to main, which saves a checkpoint; then nothing is started again.
# A host that is lost or killed, or hangs, within $COVER_SHORT_S seconds (600) of each start ends it at the fifth time in a row.
# The interpreter is $PYTHON, or `python`. The exit code is main's last; their table is in
# cover_jax/fault_tolerance/README.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

stopping=false
short=0
trap 'stopping=true; [[ -z ${!:-} ]] || kill -TERM $! 2>/dev/null || true' TERM INT

# Whether main is to be started again after $status; it had run for $1 s.
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
