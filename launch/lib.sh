# shellcheck shell=bash
# Common functions of the launch scripts: messages, and commands that `--dry-run` prints and does not run.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash $BASH_VERSION is too old, these scripts need 4.4 (macOS: brew install bash)" >&2
  exit 1
fi

# An error within $( ) also ends the script.
shopt -s inherit_errexit

# Exit codes of main after which the same command continues the run (cover_jax/errors.py).
# shellcheck disable=SC2034
readonly PREEMPTED=42 LOST_PEER=47 HUNG=48 KILLED=137 # the last one is the shell's: 128 + SIGKILL

dry_run=false

note() { echo "$*" >&2; }

die() {
  note "error: $*"
  exit 1
}

# The words, quoted for a shell.
quoted() {
  local word words=()
  for word in "$@"; do
    [[ $word =~ ^[[:alnum:]_./:=,@%+-]+$ ]] || word=${word@Q}
    words+=("$word")
  done
  echo "${words[*]}"
}

# Runs a command, or prints it with --dry-run.
run() {
  if $dry_run; then quoted "$@"; else "$@"; fi
}

# Waits until a child has ended and returns its exit code. A trapped signal ends bash's own `wait` before the child ends.
wait_for() {
  while kill -0 "$1" 2>/dev/null; do wait "$1" || true; done
  wait "$1"
}

# Prints the help of a script: the comment before its first line of code.
usage() { sed -n '2,/^[^#]/s/^#\( \|$\)//p' "launch/${0##*/}"; }

# Fails unless all named variables have a value: `require name zone`.
require() {
  local option
  for option in "$@"; do
    [[ -n ${!option} ]] || die "--$option is missing (see launch/${0##*/} --help)"
  done
}

# Fails unless the argument has the form NAME=VALUE.
check_env() { [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env=$1: should be NAME=VALUE"; }

# Fails unless the flags after `--` name a config and a workdir. Checking this here costs no time on the hosts.
check_flags() {
  [[ " $*" == *" --config="* ]] || die "the flags of cover_jax.main after -- lack --config="
  [[ " $*" == *" --workdir="* ]] || die "the flags of cover_jax.main after -- lack --workdir="
}

# Fails outside a clone, and warns of uncommitted changes: both ways of shipping code use the last commit.
check_clone() {
  local commit
  commit=$(git rev-parse --short HEAD) || die "$PWD is not a git clone: the last commit of the clone is the code that is shipped"
  [[ -z $(git status --porcelain) ]] || note "warning: commit $commit is shipped, without the changes that are not committed"
}
