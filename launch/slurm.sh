#!/usr/bin/env bash
# Trains in one SLURM job, with one process per GPU. launch/README.md explains it.
#
#     sbatch [SBATCH_OPTIONS] launch/slurm.sh [--dry-run] FLAGS_OF_MAIN...
#     sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh --config=configs/cover_l.py --workdir=/shared/run
#
# Call sbatch in the clone; all nodes must see the clone and the workdir. Nodes and GPUs are those of sbatch's options, or of
# the lines below. $PYTHON is the interpreter on the nodes (python), $SRUN_OPTIONS are more options for srun.
# Five minutes before the time limit all processes save a checkpoint, and the job is queued again. So is a preempted job.
# After a lost process or one that hangs, all processes are started again within the job.

#SBATCH --job-name=cover
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300

set -euo pipefail
# SLURM runs a copy of this script, in another folder.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
[[ -e launch/lib.sh ]] || { echo "error: $PWD is no clone of this project; call sbatch in the clone" >&2 && exit 1; }
# shellcheck source-path=SCRIPTDIR source=lib.sh
source launch/lib.sh

if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
[[ ${1:-} != --help ]] || { usage slurm.sh && exit; }
check_flags "$@"
read -ra options <<<"${SRUN_OPTIONS:-}"
# Main itself ends all processes if one fails. If srun did, it would kill those that still save.
main=(srun --kill-on-bad-exit=0 "${options[@]}" "${PYTHON:-python}" -m cover_jax.main "$@" --distributed)
if $dry_run; then
  quoted "${main[@]}"
  exit
fi
[[ -n ${SLURM_JOB_ID:-} ]] || die "this is no SLURM job; call: sbatch launch/slurm.sh FLAGS_OF_MAIN..."
run_again "${main[@]}"
# Only where SLURM told this script itself that the time is up. A job that was cancelled is not queued again.
if $stopping && [[ $status == "$PREEMPTED" ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
