#!/usr/bin/env bash
# A TPU pod slice, by gcloud, from your own machine.
#
#   launch/tpu_pod.sh create            queue for the slice and wait until it is there
#   launch/tpu_pod.sh install           the committed checkout and the shared disk, on all hosts
#   launch/tpu_pod.sh run FLAGS...      miue_jax.main FLAGS --workdir=WORKDIR, on all hosts
#   launch/tpu_pod.sh stop              SIGTERM to the run: it saves; the same run continues it
#   launch/tpu_pod.sh ssh COMMAND       any command, on all hosts
#   launch/tpu_pod.sh fetch [FOLDER]    WORKDIR, checkpoints and all, into FOLDER (default: runs)
#   launch/tpu_pod.sh delete            the slice; what lies on the shared disk stays
#
# First, once: `ssh-add ~/.ssh/google_compute_engine`, which gcloud wants for many hosts; and, as
# the hosts share no disk of their own, a Filestore instance in the network of the slice, named in
# NFS. A run survives a lost connection. A Spot slice can be taken away at any time: delete, create,
# install and run again, which continues.
set -euo pipefail

TPU=${TPU:-miue}                         # name of the slice
ZONE=${ZONE:-us-west4-a}                 # where you have quota for it
TYPE=${TYPE:-v5litepod-64}               # v5e; v6e-64 and v5p-128 are of the same size
VERSION=${VERSION:-v2-alpha-tpuv5-lite}  # of its software: v2-alpha-tpuv6e, v2-alpha-tpuv5 (v5p)
SPOT=${SPOT-yes}                         # empty: not preemptible, at several times the price
NFS=${NFS:-}                             # ADDRESS:/SHARE of the Filestore instance
WORKDIR=${WORKDIR:-/mnt/miue/run}        # below /mnt/miue, where install mounts it
ARRIVE=${ARRIVE:-300}                    # seconds in which all hosts must have started a run
POLL=${POLL:-30}                         # seconds between two looks at the queue

at=(--zone="$ZONE")

everywhere() {
  gcloud compute tpus tpu-vm ssh "$TPU" "${at[@]}" --worker=all --command="$1"
}

create() {
  local state=
  gcloud compute tpus queued-resources create "$TPU" --node-id="$TPU" "${at[@]}" \
    --accelerator-type="$TYPE" --runtime-version="$VERSION" ${SPOT:+--spot}
  while [[ $state != ACTIVE ]]; do
    state=$(gcloud compute tpus queued-resources describe "$TPU" "${at[@]}" \
      --format='value(state.state)')
    echo "$TPU: $state"
    case $state in
      ACTIVE) ;;
      FAILED | SUSPEND*) fail "the request ended as $state; delete it and create it again." 1 ;;
      *) sleep "$POLL" ;;
    esac
  done
}

install() {
  local archive
  if [[ ! $NFS ]]; then
    fail "set NFS=ADDRESS:/SHARE, the disk that all hosts share." 2
  fi
  archive=$(mktemp -d)/miue.tar.gz
  git -C "$(dirname "${BASH_SOURCE[0]}")/.." archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$TPU:miue.tar.gz" "${at[@]}" --worker=all
  rm -r "$(dirname "$archive")"
  # uv, because the image's own Python is older than 3.11.
  everywhere "set -e
    mkdir -p miue && tar -xzf miue.tar.gz -C miue
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --allow-existing --python 3.12 miue/.venv
    python3 -m uv pip install --quiet --python miue/.venv/bin/python -e './miue[tpu]'
    mountpoint -q /mnt/miue || {
      sudo apt-get install -qq -y nfs-common
      sudo mkdir -p /mnt/miue
      sudo mount -t nfs $(printf %q "$NFS") /mnt/miue
      sudo chmod a+rwx /mnt/miue
    }"
}

run() {
  # setsid and the log file: the run must not end with the connection, which only watches it.
  # JAX_PLATFORMS: an error where jax would otherwise fall back to the CPU.
  local flags
  flags=$(printf '%q ' --distributed_timeout="$ARRIVE" "$@" --workdir="$WORKDIR")
  everywhere "cd miue || exit
    JAX_PLATFORMS=tpu,cpu setsid .venv/bin/python -m miue_jax.main $flags \
      >../miue.log 2>&1 </dev/null &
    echo \$! >../miue.pid
    tail -n +1 --pid=\$! -F ../miue.log 2>/dev/null
    wait \$!"
}

stop() {
  everywhere "kill -s TERM \$(cat miue.pid)"
}

fetch() {
  local folder=${1:-runs}
  mkdir -p "$folder"
  gcloud compute tpus tpu-vm scp --recurse "$TPU:$WORKDIR" "$folder" "${at[@]}" --worker=0
}

delete() {
  gcloud compute tpus queued-resources delete "$TPU" "${at[@]}" --force --quiet
}

fail() {
  echo "tpu_pod.sh: $1" >&2
  exit "$2"
}

command=${1:-}
shift || true
case $command in
  create | install | run | stop | fetch | delete) "$command" "$@" ;;
  ssh) everywhere "$*" ;;
  *) fail "say one of: create, install, run, stop, ssh, fetch, delete." 2 ;;
esac
