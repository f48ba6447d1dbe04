# shellcheck shell=bash
# What the launch scripts share: messages, and commands that `--dry-run` prints instead of running them.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash $BASH_VERSION is too old, these scripts need 4.4 (macOS: brew install bash)" >&2
  exit 1
fi

# An error within $( ) ends the script as one outside does.
shopt -s inherit_errexit

# Exit codes of main after which the same command goes on (cover_jax/errors.py).
# shellcheck disable=SC2034
readonly PREEMPTED=42 LOST_PEER=47 HUNG=48 KILLED=137 # the last one is the shell's: 128 + SIGKILL

dry_run=false

note() { echo "$*" >&2; }

die() {
  note "error: $*"
  exit 1
}

# The words as a shell has to be given them.
quoted() {
  local word words=()
  for word in "$@"; do
    [[ $word =~ ^[[:alnum:]_./:=,@%+-]+$ ]] || word=${word@Q}
    words+=("$word")
  done
  echo "${words[*]}"
}

# Runs a command, or prints it.
run() {
  if $dry_run; then quoted "$@"; else "$@"; fi
}

# Waits for a child to be gone and returns its exit code. A trapped signal ends bash's own `wait` before the child ends.
wait_for() {
  while kill -0 "$1" 2>/dev/null; do wait "$1" || true; done
  wait "$1"
}

# The text before a script's first line of code is its help.
usage() { sed -n '2,/^[^#]/s/^#\( \|$\)//p' "launch/${0##*/}"; }

# Fails unless every variable named has a value: `require name zone`.
require() {
  local option
  for option in "$@"; do
    [[ -n ${!option} ]] || die "--$option is missing (see launch/${0##*/} --help)"
  done
}

# Fails unless it looks like NAME=VALUE.
check_env() { [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env=$1: should be NAME=VALUE"; }

# Fails unless the flags after `--` name a config and a workdir, which is found out here in no time.
check_flags() {
  [[ " $*" == *" --config="* ]] || die "the flags of cover_jax.main after -- lack --config="
  [[ " $*" == *" --workdir="* ]] || die "the flags of cover_jax.main after -- lack --workdir="
}

# Fails outside a clone, and says what will not be part of the run: both ways of shipping code take the last commit.
check_clone() {
  local commit
  commit=$(git rev-parse --short HEAD) || die "$PWD is no git clone: the code that is shipped is its last commit"
  [[ -z $(git status --porcelain) ]] || note "warning: commit $commit is shipped, without the changes that are not committed"
}
