#!/usr/bin/env bash
# Trains on one or more TPU slices of a GKE cluster, as a JobSet. launch/README.md explains each step.
#
#     launch/gke.sh [--dry-run] COMMAND [OPTIONS] [-- FLAGS_OF_MAIN...]
#
#     image    build the image of this clone's last commit and push it   (--image)
#     run      start python -m cover_jax.main FLAGS_OF_MAIN on every host   (--name, --image, --accelerator, --topology);
#              the cluster starts it again after a preemption
#     logs     follow what the first slice's first host prints             (--name)
#     status   the JobSet and its pods                                     (--name)
#     delete   end the JobSet                                              (--name)
#
#     --name=NAME             name of the JobSet
#     --image=IMAGE           such as us-east5-docker.pkg.dev/PROJECT/cover/cover-jax:v1
#     --accelerator=LABEL     cloud.google.com/gke-tpu-accelerator of the nodes, such as tpu-v6e-slice
#     --topology=TOPOLOGY     cloud.google.com/gke-tpu-topology of the nodes, such as 8x8
#     --chips_per_host=COUNT  chips per host (4)
#     --slices=COUNT          number of slices (1); each is a node pool of its own
#     --service_account=NAME  the Kubernetes service account that may use the bucket (default)
#     --env=NAME=VALUE        environment variable for main on every host; may be repeated
#     --dry-run               print the commands, and the manifest, instead of running them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=lib.sh
source launch/lib.sh

name='' image='' accelerator='' topology='' chips_per_host=4 slices=1 service_account=default
env=() flags=()

parse() {
  while (($#)); do
    case $1 in
      --name=* | --image=* | --accelerator=* | --topology=* | --chips_per_host=* | --slices=* | --service_account=*)
        local option=${1%%=*}
        printf -v "${option#--}" %s "${1#*=}"
        ;;
      --env=*) check_env "${1#--env=}" && env+=("${1#--env=}") ;;
      --dry-run) dry_run=true ;;
      --) shift && flags=("$@") && return ;;
      *) die "'$1' is no option (see launch/gke.sh --help)" ;;
    esac
    shift
  done
}

# Number of hosts of a topology such as 4x8.
hosts() {
  [[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || die "--topology=$topology: should be such as 4x8 or 4x4x8"
  [[ $chips_per_host =~ ^[1-9][0-9]*$ ]] || die "--chips_per_host=$chips_per_host: should be a number from 1"
  local chips=$((${topology//x/*}))
  ((chips % chips_per_host == 0)) || die "--topology=$topology: $chips chips are no whole number of hosts of $chips_per_host"
  echo $((chips / chips_per_host))
}

# YAML accepts JSON strings, whose quoting is simple.
json_string() {
  local text=${1//\\/\\\\}
  echo "\"${text//\"/\\\"}\""
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

# Replaces ${NAME} in $text.
fill() { text=${text//"\${$1}"/"$2"}; }

manifest() {
  local text hosts
  hosts=$(hosts)
  [[ $slices =~ ^[1-9][0-9]*$ ]] || die "--slices=$slices: should be a number from 1"
  text=$(<launch/jobset.yaml)
  text=${text#*$'\n'} # the first line is a comment about the template
  fill NAME "$name"
  fill SLICES "$slices"
  fill HOSTS "$hosts"
  fill IMAGE "$image"
  fill ACCELERATOR "$accelerator"
  fill TOPOLOGY "$topology"
  fill CHIPS_PER_HOST "$chips_per_host"
  fill SERVICE_ACCOUNT "$service_account"
  fill ENV "$(env_json "${env[@]}")"
  fill FLAGS "$(flags_json "${flags[@]}" --distributed)"
  echo "$text"
}

image() {
  require image
  check_clone
  if $dry_run; then
    echo "git archive HEAD | $(quoted docker build --tag="$image" --file=launch/Dockerfile -)"
  else
    git archive HEAD | docker build --tag="$image" --file=launch/Dockerfile -
  fi
  run docker push "$image"
}

# `create` and not `apply`: a second run with the same name is a mistake, and a JobSet cannot be changed anyway.
start() {
  local text
  require name image accelerator topology
  check_flags "${flags[@]}"
  text=$(manifest)
  ! $dry_run || echo "$text"
  run kubectl create --filename=- <<<"$text"
}

pods() { echo "--selector=jobset.sigs.k8s.io/jobset-name=$name"; }

logs() {
  require name
  run kubectl logs --follow --tail=-1 "$(pods),jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
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
  image | logs | status | delete) ;;
  run) command=start ;;
  --help)
    usage
    exit
    ;;
  *) die "'$command' is no command (see launch/gke.sh --help)" ;;
esac
parse "${@:2}"
"$command"
