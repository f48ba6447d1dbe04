#!/usr/bin/env bash
# Runs `python -m cover_jax.main FLAGS...`, and again for as long as it says that it was preempted (exit code 42).
#
#     launch/again.sh --config=configs/demo.py --workdir=/tmp/cover_demo
#
# TERM or INT to this script goes on to main, which saves a checkpoint; then nothing is started again.
# The interpreter is $PYTHON, or `python`. The exit code is main's last.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly PREEMPTED=42

stopping=false
trap 'stopping=true; [[ -z ${!:-} ]] || kill -TERM $! 2>/dev/null || true' TERM INT

status=$PREEMPTED
while [[ $status == "$PREEMPTED" ]] && ! $stopping; do
  "${PYTHON:-python}" -m cover_jax.main "$@" &
  status=0
  wait_for $! || status=$?
  note "again.sh: main ended with exit code $status"
done
exit "$status"
