#!/usr/bin/env bash
# Trains on one or more TPU slices of a GKE cluster, as a JobSet. launch/README.md explains each step.
#
#     launch/gke.sh [--dry-run] COMMAND [OPTIONS] [-- FLAGS_OF_MAIN...]
#
#     nodes     create the node pools of the slices   (--cluster, --location, --zone, --name, --accelerator, --topology)
#     image     build the image of this clone's last commit and push it   (--image)
#     rehearse  python -m cover_jax.main FLAGS_OF_MAIN --mode=rehearse on every host, and wait for its table   (as run)
#     run       start python -m cover_jax.main FLAGS_OF_MAIN on every host   (--name, --image, --accelerator, --topology);
#               the cluster starts it again after a preemption
#     logs      follow what the first slice's first host prints             (--name)
#     status    the JobSet and its pods                                     (--name)
#     delete    end the JobSet                                              (--name)
#
#     --name=NAME             name of the JobSet, or of the node pool
#     --image=IMAGE           such as us-east5-docker.pkg.dev/PROJECT/cover/cover-jax:v1
#     --extras=EXTRAS         what the image is for: tpu, or cuda,gcs for NVIDIA GPUs (tpu)
#     --accelerator=LABEL     cloud.google.com/gke-tpu-accelerator of the nodes, such as tpu-v6e-slice or tpu7x
#     --topology=TOPOLOGY     cloud.google.com/gke-tpu-topology of the nodes, such as 8x8
#     --chips_per_host=COUNT  chips per host (4)
#     --slices=COUNT          number of slices (1); each is a node pool of its own
#     --service_account=NAME  the Kubernetes service account that may use the bucket (default)
#     --env=NAME=VALUE        environment variable for main on every host; may be repeated
#     --privileged            main runs as root with all rights; only for nodes that do not let another user open a TPU
#     --cluster=NAME, --location=REGION, --zone=ZONE   where node pools are created
#     --spot                  cheaper nodes, which may be preempted at any time
#     --reservation=NAME      nodes of this reservation
#     --dry-run               print the commands, and the manifest, instead of running them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=lib.sh
source launch/lib.sh

name='' image='' extras=tpu accelerator='' topology='' chips_per_host=4 slices=1 service_account=default
cluster='' location='' zone='' reservation='' spot=false privileged=false
env=() flags=()

parse() {
  while (($#)); do
    case $1 in
      --name=* | --image=* | --extras=* | --accelerator=* | --topology=* | --chips_per_host=* | --slices=* | \
        --service_account=* | --cluster=* | --location=* | --zone=* | --reservation=*)
        local option=${1%%=*}
        printf -v "${option#--}" %s "${1#*=}"
        ;;
      --env=*) check_env "${1#--env=}" && env+=("${1#--env=}") ;;
      --spot | --privileged) printf -v "${1#--}" true ;;
      --dry-run) dry_run=true ;;
      --) shift && flags=("$@") && return ;;
      *) die "'$1' is no option (see launch/gke.sh --help)" ;;
    esac
    shift
  done
}

check_options() {
  check_name name
  check_name cluster
  check_form image '[A-Za-z0-9][A-Za-z0-9._/:@-]*' 'should be such as us-east5-docker.pkg.dev/PROJECT/cover/cover-jax:v1'
  check_form extras '[a-z0-9]+(,[a-z0-9]+)*' 'should be such as tpu or cuda,gcs'
  check_form accelerator '[a-z0-9]([a-z0-9-]*[a-z0-9])?' 'should be such as tpu-v6e-slice or tpu7x'
  check_form service_account '[a-z0-9]([a-z0-9.-]*[a-z0-9])?' 'should be small letters, digits, hyphens and dots'
  check_form location '[a-z0-9-]+' 'should be such as us-east5'
  check_form zone '[a-z0-9-]+' 'should be such as us-east5-b'
  check_form reservation '[A-Za-z0-9][A-Za-z0-9._/:-]*' 'should be the name of a reservation'
  check_count slices
  check_count chips_per_host
  ! $spot || [[ -z $reservation ]] || die "--spot and --reservation exclude each other"
}

# Number of hosts of a topology such as 4x8.
hosts() {
  [[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || die "--topology=$topology: should be such as 4x8 or 4x4x8"
  local chips=$((${topology//x/*}))
  ((chips % chips_per_host == 0)) || die "--topology=$topology: $chips chips are no whole number of hosts of $chips_per_host"
  echo $((chips / chips_per_host))
}

# Pods have names such as NAME-slice-0-15-abcde, of at most 63 characters.
check_length() {
  local longest="$name-slice-$((slices - 1))-$((hosts - 1))-xxxxx"
  ((${#longest} <= 63)) || die "--name=$name: should have $((${#longest} - 63)) characters less, for the names of its pods"
}

# YAML accepts JSON strings, whose quoting is simple. Kubernetes would read $(NAME) in flags and variables; $$ is a $.
json_string() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"} text=${text//$'\n'/\\n} text=${text//$'\t'/\\t}
  echo "\"${text//\$/\$\$}\""
}

json_list() {
  local IFS=,
  echo "[$*]"
}

flags_json() {
  local flag items=()
  for flag in "$@"; do items+=("$(json_string "$flag")"); done
  json_list "${items[@]}"
}

env_json() {
  local pair items=()
  for pair in "$@"; do items+=("{\"name\": $(json_string "${pair%%=*}"), \"value\": $(json_string "${pair#*=}")}"); done
  json_list "${items[@]}"
}

# Main needs no rights of its own. What Google's device plugin lets a user open is the node's matter: see README.md.
readonly NO_ROOT='{"runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}'
readonly NO_RIGHTS='{"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}'
readonly RESTART='[{"action": "RestartJobSetAndIgnoreMaxRestarts", "onJobFailureReasons": ["PodFailurePolicy"]}]'

# The manifest of a JobSet whose pods run main with these flags: `manifest MAX_RESTARTS RESTART_RULES FLAGS...`.
manifest() {
  local text rest result=''
  local -A values=(
    [NAME]="\"$name\"" [SLICES]=$slices [HOSTS]=$hosts [IMAGE]="\"$image\"" [ACCELERATOR]="\"$accelerator\""
    [TOPOLOGY]="\"$topology\"" [CHIPS_PER_HOST]=$chips_per_host [SERVICE_ACCOUNT]="\"$service_account\""
    [MAX_RESTARTS]=$1 [RESTART_RULES]=$2 [POD_SECURITY]=$NO_ROOT [SECURITY]=$NO_RIGHTS
    [ENV]=$(env_json "${env[@]}") [FLAGS]=$(flags_json "${@:3}" --distributed)
  )
  if $privileged; then values[POD_SECURITY]='{"runAsUser": 0}' values[SECURITY]='{"privileged": true}'; fi
  text=$(sed '/^#/d' launch/jobset.yaml)
  while [[ $text == *"\${"* ]]; do # in one pass, so that no value is searched for variables
    result+=${text%%"\${"*}
    rest=${text#*"\${"}
    result+=${values[${rest%%\}*}]}
    text=${rest#*\}}
  done
  echo "$result$text"
}

# What run and rehearse need.
check_job() {
  require name image accelerator topology
  check_flags "${flags[@]}"
  hosts=$(hosts)
  check_length
  # https://docs.cloud.google.com/tpu/docs/tpu-gke-multislice
  ((slices == 1 || hosts > 1)) || die "--slices=$slices: GKE joins slices of several hosts only; $topology is one host"
}

# `create` and not `apply`: a second run with the same name is a mistake, and a JobSet cannot be changed anyway.
create() {
  ! $dry_run || echo "$1"
  run kubectl create --filename=- <<<"$1"
}

image() {
  require image
  check_clone
  if $dry_run; then
    echo "git archive HEAD | $(quoted docker build --tag="$image" --build-arg=EXTRAS="$extras" --file=launch/Dockerfile -)"
  else
    git archive HEAD | docker build --tag="$image" --build-arg=EXTRAS="$extras" --file=launch/Dockerfile -
  fi
  run docker push "$image"
  # IMAGE@sha256:..., which names this image for ever
  run docker image inspect --format='{{index .RepoDigests 0}}' "$image"
}

start() {
  check_job
  create "$(manifest 3 "$RESTART" "${flags[@]}")"
}

# One try, whose first host's output and exit code are this command's.
rehearse() {
  require name
  name+=-rehearsal
  check_job
  create "$(manifest 0 '[]' "${flags[@]}" --mode=rehearse)"
  trap delete EXIT # also if this script is interrupted
  # Not `kubectl wait --for=create`: before kubectl 1.33 it fails if there is no such pod yet (kubernetes/kubectl#1675).
  local tries=300 # every two seconds
  until $dry_run || [[ -n $(kubectl get pods "$(first_pod)" --output=name) ]]; do
    ((tries--)) || die "no pod of $name was created within ten minutes"
    sleep 2
  done
  run kubectl logs --follow --tail=-1 --pod-running-timeout=12h "$(first_pod)"
  local code=0 last='jsonpath={.items[0].status.containerStatuses[0].state.terminated.exitCode}'
  run kubectl wait jobset "$name" --for='jsonpath={.status.terminalState}' --timeout=10m || true
  if $dry_run; then run kubectl get pods "$(first_pod)" --output="$last"; else code=$(kubectl get pods "$(first_pod)" --output="$last"); fi
  exit "${code:-1}"
}

# Machine type of the nodes, from the label: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
machine_type() {
  case $accelerator in
    tpu-v4-podslice) echo "ct4p-hightpu-${chips_per_host}t" ;;
    tpu-v5-lite-podslice) echo "ct5lp-hightpu-${chips_per_host}t" ;;
    tpu-v5p-slice) echo "ct5p-hightpu-${chips_per_host}t" ;;
    tpu-v6e-slice) echo "ct6e-standard-${chips_per_host}t" ;;
    tpu7x) echo "tpu7x-standard-${chips_per_host}t" ;;
    *) die "--accelerator=$accelerator: should be tpu-v4-podslice, tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice or tpu7x" ;;
  esac
}

# A slice of several hosts has its shape from --tpu-topology; TPU7x from a workload policy, which replaces that flag:
# https://docs.cloud.google.com/kubernetes-engine/docs/concepts/tpu-ironwood
nodes() {
  local hosts machine number pool where policy options=()
  require name cluster location zone accelerator topology
  hosts=$(hosts)
  machine=$(machine_type)
  where=(--cluster="$cluster" --location="$location" --node-locations="$zone")
  policy=cover-$accelerator-$topology
  ! $spot || options+=(--spot)
  [[ -z $reservation ]] || options+=(--reservation-affinity=specific --reservation="$reservation")
  if [[ $accelerator == tpu7x ]] && ((hosts > 1)); then
    run gcloud compute resource-policies create workload-policy "$policy" --region="$location" \
      --type=HIGH_THROUGHPUT --accelerator-topology="$topology"
    options+=(--placement-policy="$policy")
  elif ((hosts > 1)); then
    options+=(--tpu-topology="$topology")
  fi
  for ((number = 0; number < slices; number++)); do
    if ((slices == 1)); then pool=$name; else pool=$name-$number; fi
    run gcloud container node-pools create "$pool" "${where[@]}" --machine-type="$machine" --num-nodes="$hosts" \
      --workload-metadata=GKE_METADATA "${options[@]}"
  done
}

pods() { echo "--selector=jobset.sigs.k8s.io/jobset-name=$name"; }

first_pod() { echo "$(pods),jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"; }

logs() {
  require name
  run kubectl logs --follow --tail=-1 "$(first_pod)"
}

status() {
  require name
  run kubectl get jobset "$name"
  run kubectl get pods "$(pods)"
}

delete() {
  require name
  run kubectl delete jobset "$name"
}

if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
command=${1:-}
case $command in
  nodes | image | rehearse | logs | status | delete) ;;
  run) command=start ;;
  --help)
    usage
    exit
    ;;
  *) die "'$command' is no command (see launch/gke.sh --help)" ;;
esac
parse "${@:2}"
check_options
"$command"
