#!/usr/bin/env bash
# Runs `python -m cover_jax.main FLAGS...`, and repeats it while its exit code means that the same command can continue.
#
#     launch/again.sh --config=configs/demo.py --workdir=/tmp/cover_demo
#
# This script passes TERM, INT and HUP on to main as TERM. Then main saves a checkpoint, and nothing is started again.
# If main is killed by a signal, hangs or loses a host within $COVER_SHORT_S seconds (600) of its start, five times in a
# row, the script ends.
# The interpreter is $PYTHON, or `python`. The exit code is that of the last main. All codes are in
# cover_jax/fault_tolerance/README.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run_again "${PYTHON:-python}" -m cover_jax.main "$@"
exit "$status"
