# shellcheck shell=bash
# Common functions of the launch scripts: messages, and commands that `--dry-run` prints and does not run.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash $BASH_VERSION is too old, these scripts need 4.4 (macOS: brew install bash)" >&2
  exit 1
fi

# An error within $( ) also ends the script.
shopt -s inherit_errexit

# Exit codes of main (cover_jax/errors.py, data_pipelines/command_line.py). After the first three it can continue.
# shellcheck disable=SC2034
readonly PREEMPTED=42 LOST_PEER=47 HUNG=48 INTERRUPTED=130 NO_READER=141

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

stopping=false # whether this script was told to end
status=0       # exit code of the last main
short=0        # how many mains in a row were lost, hung or killed soon after their start

# Runs a command, and repeats it while its exit code, $status, means that the same command continues the run. TERM, INT and
# HUP end this: they are passed on as TERM, main saves a checkpoint, and nothing is started again. If main is killed by a
# signal, hangs or loses a host within $COVER_SHORT_S seconds (600) of its start, five times in a row, this ends too.
run_again() {
  local started
  trap 'stopping=true; [[ -z ${!:-} ]] || kill -TERM $! 2>/dev/null || true' TERM INT HUP
  while true; do
    started=$SECONDS
    "$@" &
    status=0
    wait_for $! || status=$?
    note "${0##*/}: main ended with exit code $status"
    if $stopping || ! goes_on $((SECONDS - started)); then break; fi
  done
}

# Whether a signal has ended main: KILL, or SEGV of a library. The other hosts have lost this one and start again, too.
# Ctrl-C and an output that nobody reads any more have codes of the same form.
was_killed() { ((status > 128)) && [[ $status != "$INTERRUPTED" && $status != "$NO_READER" ]]; }

# Whether main must be started again after $status, when it ran for $1 s.
goes_on() {
  if [[ $status == "$PREEMPTED" ]]; then
    short=0
    return
  fi
  [[ $status == "$LOST_PEER" || $status == "$HUNG" ]] || was_killed || return 1
  if (($1 < ${COVER_SHORT_S:-600})); then short=$((short + 1)); else short=0; fi
  ((short < 5))
}

# Prints the help of a script: the comment before its first line of code.
usage() { sed -n '2,/^[^#]/s/^#\( \|$\)//p' "launch/${1:-${0##*/}}"; }

# Fails unless all named variables have a value: `require name zone`.
require() {
  local option
  for option in "$@"; do
    [[ -n ${!option} ]] || die "--$option is missing (see launch/${0##*/} --help)"
  done
}

# Fails unless the value of an option is empty or has a form: `check_form zone '[a-z0-9-]+' 'should be such as us-east5-b'`.
check_form() { [[ -z ${!1} || ${!1} =~ ^($2)$ ]] || die "$(quoted "--$1=${!1}"): $3"; }

check_number() { check_form "$1" '0|[1-9][0-9]{0,8}' 'should be a number'; }
check_count() { check_form "$1" '[1-9][0-9]{0,8}' 'should be a number from 1'; }

# Names of TPU nodes and of Kubernetes objects (RFC 1035): nothing that a shell or YAML would read in another way.
check_name() {
  check_form "$1" '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' \
    'should be at most 63 small letters, digits and hyphens, with a letter first and no hyphen last'
}

# Fails if two options are given that exclude each other.
exclude() {
  if "${!1}" && "${!2}"; then die "--$1 and --$2 exclude each other"; fi
}

# Fails unless the argument has the form NAME=VALUE.
check_env() {
  [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env=$1: should be NAME=VALUE"
  check_text "$1"
}

# Fails if a text has a character that neither a shell's command line nor YAML can hold.
check_text() { [[ ${1//[$'\t\n']/} != *[[:cntrl:]]* ]] || die "${1@Q}: has a control character"; }

# Fails unless the flags after `--` name a config and a workdir. Checking this here costs no time on the hosts.
check_flags() {
  local flag
  for flag in "$@"; do check_text "$flag"; done
  [[ " $*" == *" --config="* ]] || die "the flags of cover_jax.main after -- lack --config="
  [[ " $*" == *" --workdir="* ]] || die "the flags of cover_jax.main after -- lack --workdir="
}

# Fails outside a clone, and warns of uncommitted changes: both ways of shipping code use the last commit.
check_clone() {
  local commit
  commit=$(git rev-parse --short HEAD) || die "$PWD is not a git clone: the last commit of the clone is the code that is shipped"
  [[ -z $(git status --porcelain) ]] || note "warning: commit $commit is shipped, without the changes that are not committed"
}
