#!/usr/bin/env bash
# Trains on slices of TPU VMs that are requested as a queued resource. launch/README.md explains each step.
#
#     launch/tpu_vm.sh [--dry-run] COMMAND --name=NAME --zone=ZONE [OPTIONS] [-- FLAGS_OF_MAIN...]
#
#     create      request the slices and wait until they exist       (--type)
#     setup       copy this clone's last commit to every host and install it
#     rehearse    python -m cover_jax.main FLAGS_OF_MAIN --mode=rehearse on every host, and wait for its table
#     run         start python -m cover_jax.main FLAGS_OF_MAIN on every host
#     logs        follow what one host prints                         (--worker, --slice)
#     status      the state of the request and of each host
#     watch       do the missing ones of create, setup and run, again after every preemption, until main has ended
#     stop        make main save a checkpoint and end
#     delete      delete the slices with all the data on their disks
#     wheelhouse  put all that setup installs into the bucket, from a Linux machine with internet   (--wheelhouse alone)
#
#     --name=NAME            name of the request and of its slice
#     --zone=ZONE            such as us-east5-b
#     --project=PROJECT      gcloud's own default unless given
#     --type=TYPE            accelerator type, such as v6e-64
#     --slices=COUNT         number of slices of that type (1); give it with every command
#     --runtime=VERSION      version of the TPU software; by default it is chosen by --type
#     --spot                 cheaper, and may be preempted at any time
#     --reserved             use a reservation
#     --valid_until_duration=TIME   give the request up if it is not fulfilled after this time, such as 6h
#     --labels=KEY=VALUE,... labels of the slices, as the bill lists them
#     --service_account=ADDRESS   the account that reads and writes the bucket; the project's default unless given
#     --network=NETWORK      network of the hosts (default)
#     --subnetwork=SUBNETWORK   its part in the zone's region; needed where the network has no automatic ones
#     --internal_ips         hosts without addresses on the internet; ssh goes through the network, or with --iap
#     --iap                  ssh through Identity-Aware Proxy
#     --wheelhouse=gs://BUCKET/FILE.tar.gz   what setup installs; without it, the hosts fetch it from the internet
#     --env=NAME=VALUE       environment variable for main on every host; may be repeated
#     --worker=NUMBER        the host whose log is followed (0)
#     --slice=NUMBER         the slice of that host (0)
#     --poll_s=SECONDS       time between two checks (60)
#     --dry-run              print the commands and do not run them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=lib.sh
source launch/lib.sh

name='' zone='' project='' type='' slices=1 runtime='' valid_until_duration='' labels='' service_account=''
network='' subnetwork='' wheelhouse='' worker=0 slice=0 poll_s=60
spot=false reserved=false internal_ips=false iap=false
env=() flags=()

parse() {
  while (($#)); do
    case $1 in
      --name=* | --zone=* | --project=* | --type=* | --slices=* | --runtime=* | --valid_until_duration=* | --labels=* | \
        --service_account=* | --network=* | --subnetwork=* | --wheelhouse=* | --worker=* | --slice=* | --poll_s=*)
        local option=${1%%=*}
        printf -v "${option#--}" %s "${1#*=}"
        ;;
      --env=*) check_env "${1#--env=}" && env+=("${1#--env=}") ;;
      --spot | --reserved | --internal_ips | --iap) printf -v "${1#--}" true ;;
      --dry-run) dry_run=true ;;
      --) shift && flags=("$@") && return ;;
      *) die "'$1' is no option (see launch/tpu_vm.sh --help)" ;;
    esac
    shift
  done
}

check_options() {
  local key='[a-z][a-z0-9_-]{0,62}' value='[a-z0-9_-]{0,63}'
  check_name name
  check_form zone '[a-z0-9-]+' 'should be such as us-east5-b'
  check_form labels "$key=$value(,$key=$value)*" 'should be KEY=VALUE,... of small letters, digits, - and _'
  check_form valid_until_duration '([0-9]+[smhd])+' 'should be such as 6h or 1d12h'
  check_form wheelhouse 'gs://[A-Za-z0-9._-]+/[^[:cntrl:]]+\.tar\.gz' 'should be such as gs://BUCKET/wheelhouse.tar.gz'
  check_count slices
  check_number worker
  check_number slice
  check_number poll_s
  exclude spot reserved
  ((slice < slices)) || die "--slice=$slice: there are slices 0 to $((slices - 1)) (--slices=$slices)"
}

# The TPU software version for --type with JAX: https://cloud.google.com/tpu/docs/runtimes
resolve_type() {
  require type
  [[ -z $runtime ]] || return 0
  case $type in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) runtime=tpu-ubuntu2204-base ;;
    tpu7x*) die "--type=$type: Google offers TPU7x in GKE only: launch/gke.sh" ;;
    *) die "--type=$type: should begin with v6e-, v5p-, v5litepod-, v4-, v3- or v2-, or come with its --runtime" ;;
  esac
}

# --quiet: `watch` may run unattended, so nobody can answer when an SSH key is made or a deletion must be confirmed.
tpus() { run gcloud compute tpus "$@" "${where[@]}" --quiet; }

# Where ssh and scp go: one slice, or all slices of the request.
each_host() { if ((slices == 1)); then echo tpu-vm; else echo queued-resources; fi; }

# Runs a shell command on one host of --slice, or on all. A host that no longer exists must not delay the others' check.
on_hosts() {
  local which=(--worker="$1")
  ((slices == 1)) || which+=(--node="$slice")
  [[ $1 != all || $slices == 1 ]] || which=(--worker=all --node=all)
  shift
  tpus "$(each_host)" ssh "$name" "${which[@]}" "${ssh[@]}" --ssh-flag=-oConnectTimeout=20 \
    --ssh-flag=-oServerAliveInterval=30 --command="$*"
}

copy_to_hosts() {
  local which=(--worker=all)
  ((slices == 1)) || which+=(--node=all)
  tpus "$(each_host)" scp "$1" "$name:${1##*/}" "${which[@]}" "${ssh[@]}"
}

# The API's own state of the request; NONE if there is no such request, UNKNOWN if the API does not answer.
request_state() {
  if ! tpus queued-resources describe "$name" --format='value(state.state)' 2>"$scratch/errors"; then
    if grep -q NOT_FOUND "$scratch/errors"; then echo NONE; else echo UNKNOWN && cat "$scratch/errors" >&2; fi
  fi
}

# Prints one line per host, "host: " and its state (see worker.sh). Fails unless all hosts answer.
host_states() {
  on_hosts all 'bash cover-jax/launch/worker.sh state 2>/dev/null || echo host: bare' | grep '^host: ' | sort
}

request() {
  local options=(--node-id="$name")
  ((slices == 1)) || options=(--node-count="$slices" --node-prefix="$name")
  ! $spot || options+=(--spot)
  ! $reserved || options+=(--reserved)
  ! $internal_ips || options+=(--internal-ips)
  [[ -z $network ]] || options+=(--network="$network")
  [[ -z $subnetwork ]] || options+=(--subnetwork="$subnetwork")
  [[ -z $labels ]] || options+=(--labels="$labels")
  [[ -z $valid_until_duration ]] || options+=(--valid-until-duration="$valid_until_duration")
  [[ -z $service_account ]] || options+=(--service-account="$service_account")
  tpus queued-resources create "$name" --accelerator-type="$type" --runtime-version="$runtime" "${options[@]}"
}

describe_command() { quoted gcloud compute tpus queued-resources describe "$name" "${where[@]}"; }

create() {
  local state=''
  resolve_type
  request
  if $dry_run; then
    request_state
    return
  fi
  until [[ $state == ACTIVE ]]; do
    state=$(request_state)
    report "request: $state"
    [[ $state != FAILED && $state != SUSPENDED ]] || die "the request ended as $state, see: $(describe_command)"
    [[ $state == ACTIVE ]] || sleep "$poll_s"
  done
}

# `watch` calls this function and the next ones in conditions. There bash ignores `set -e`, so they use chains of &&.
setup() {
  check_clone &&
    git archive --output="$scratch/cover-jax.tar.gz" HEAD &&
    copy_to_hosts "$scratch/cover-jax.tar.gz" &&
    on_hosts all "rm -rf cover-jax && mkdir cover-jax && tar -xzf cover-jax.tar.gz -C cover-jax && bash cover-jax/launch/worker.sh setup${wheelhouse:+ $(quoted "$wheelhouse")}"
}

wheelhouse() {
  require wheelhouse
  check_clone
  mkdir "$scratch/code"
  git archive HEAD | tar -x -C "$scratch/code"
  run bash "$scratch/code/launch/worker.sh" wheelhouse "$scratch/wheelhouse.tar.gz"
  run gcloud storage cp "$scratch/wheelhouse.tar.gz" "$wheelhouse"
}

# Calls worker.sh on all hosts, with the variables of --env and the flags of main.
on_hosts_main() { on_hosts all "env $(quoted "${env[@]}") bash cover-jax/launch/worker.sh $(quoted "$@" --distributed)"; }

start() {
  check_flags "${flags[@]}"
  on_hosts_main start "${flags[@]}"
}

rehearse() {
  check_flags "${flags[@]}"
  on_hosts_main rehearse "${flags[@]}" --mode=rehearse
}

logs() { on_hosts "$worker" 'bash cover-jax/launch/worker.sh log'; }

status() {
  request_state
  host_states
}

stop() { on_hosts all '[ ! -e cover-jax/launch/worker.sh ] || bash cover-jax/launch/worker.sh stop'; }

delete() { tpus queued-resources delete "$name" --force; }

# A request gets only one slice, and a preempted slice is lost with its disks. So both are created again.
replace() {
  report "the slice was taken away: asking for another"
  delete && request
}

# A request may still be ACTIVE for a while after the hosts of a slice were taken away.
is_preempted() {
  local state number node nodes=("$name")
  if ((slices > 1)); then
    nodes=()
    for ((number = 0; number < slices; number++)); do nodes+=("$name-$number"); done
  fi
  for node in "${nodes[@]}"; do
    state=$(tpus tpu-vm describe "$node" --format='value(state)' 2>/dev/null) || continue
    [[ $state != PREEMPTED && $state != TERMINATED ]] || return 0
  done
  return 1
}

reported=''

# Prints a message if it differs from the last one.
report() {
  [[ $* == "$reported" ]] || note "$(date +%T) $*"
  reported=$*
}

finished=false
had_slice=false
failures=0

# When a host is taken away, the other hosts fail first. Only a failure that is found in two checks is main's own.
blame() {
  failures=$((failures + 1))
  ((failures < 2)) && return
  on_hosts all 'tail -n 20 cover-run/log' || true
  die "main failed; the slice is still there until: launch/tpu_vm.sh delete --name=$name --zone=$zone"
}

# Acts on the states of the hosts.
tend() {
  local states=$1
  report "hosts:" "$(uniq -c <<<"${states//host: /}" | tr -s ' \n' ' ')"
  case $(uniq <<<"$states") in
    'host: exit 0') finished=true ;;
    *'host: bare'*) stop && setup && start ;;
    *'host: ready'*) start ;;
    *'host: lost'* | *'host: exit 42'*) stop && start ;;
    *'host: exit '[1-9]*) blame ;;
    *) failures=0 ;;
  esac
}

# Acts on the state of the request.
look() {
  local state states
  state=$(request_state)
  case $state in
    NONE) request || $had_slice || die "the slice cannot be asked for" ;;
    FAILED) die "the request failed, see: $(describe_command)" ;;
    SUSPENDED) replace ;;
    ACTIVE)
      had_slice=true
      if states=$(host_states); then
        tend "$states"
      elif is_preempted; then
        replace
      else
        report "not all hosts answer"
      fi
      ;;
    *) report "request: $state" ;;
  esac
}

watch() {
  check_flags "${flags[@]}"
  if $dry_run; then
    create && setup && start
    note "# and then, every $poll_s s:"
    request_state
    on_hosts all 'bash cover-jax/launch/worker.sh state'
    note "# and if the slice was taken away, all of the above again after:"
    delete
    return
  fi
  resolve_type
  while true; do
    look || report "that did not work; trying again"
    ! $finished || break
    sleep "$poll_s"
  done
  note "main has ended on every host; the slice is still there until: launch/tpu_vm.sh delete --name=$name --zone=$zone"
}

if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
command=${1:-}
case $command in
  create | setup | rehearse | logs | status | watch | stop | delete | wheelhouse) ;;
  run) command=start ;;
  --help)
    usage
    exit
    ;;
  *) die "'$command' is no command (see launch/tpu_vm.sh --help)" ;;
esac
parse "${@:2}"
check_options
[[ $command == wheelhouse ]] || require name zone
where=(--zone="$zone") ssh=()
[[ -z $project ]] || where+=(--project="$project")
if $iap; then ssh=(--tunnel-through-iap); elif $internal_ips; then ssh=(--internal-ip); fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$command"
