#!/usr/bin/env bash
# Manages a TPU pod slice from your own machine, through gcloud.
#
#   launch/tpu_pod.sh create            requests the slice and waits until it is ready
#   launch/tpu_pod.sh install           installs this source folder, mounts the shared disk
#   launch/tpu_pod.sh run FLAGS...      runs miue_jax.main FLAGS --workdir=WORKDIR on all hosts
#   launch/tpu_pod.sh stop              sends SIGTERM to the run, which saves; run again to continue
#   launch/tpu_pod.sh ssh COMMAND       runs any command on all hosts
#   launch/tpu_pod.sh fetch [FOLDER]    copies WORKDIR with checkpoints to FOLDER (default: runs)
#   launch/tpu_pod.sh delete            deletes the slice; files on the shared disk remain
#
# Before the first use, run `ssh-add ~/.ssh/google_compute_engine`, which gcloud needs for many
# hosts, and create a Filestore instance in the network of the slice, because the hosts share no
# disk; name it in NFS. A run survives a lost connection. A Spot slice can be taken away at any
# time: delete, create, install and run again to continue.
set -euo pipefail

TPU=${TPU:-miue}                         # name of the slice
ZONE=${ZONE:-us-west4-a}                 # zone in which you have quota
TYPE=${TYPE:-v5litepod-64}               # v5e; v6e-64 and v5p-128 have the same size
VERSION=${VERSION:-v2-alpha-tpuv5-lite}  # or v2-alpha-tpuv6e, v2-alpha-tpuv5 (v5p)
SPOT=${SPOT-yes}                         # empty: not preemptible, several times the price
NFS=${NFS:-}                             # Filestore instance, ADDRESS:/SHARE
WORKDIR=${WORKDIR:-/mnt/miue/run}        # below /mnt/miue, where install mounts NFS
ARRIVE=${ARRIVE:-300}                    # seconds until all hosts must have started
POLL=${POLL:-30}                         # seconds between two queries of the queue

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
    fail "set NFS=ADDRESS:/SHARE to the disk that all hosts share." 2
  fi
  archive=$(mktemp -d)/miue.tar.gz
  tar -czf "$archive" --exclude=__pycache__ -C "$(dirname "${BASH_SOURCE[0]}")/.." \
    pyproject.toml README.md LICENSE miue_jax configs
  gcloud compute tpus tpu-vm scp "$archive" "$TPU:miue.tar.gz" "${at[@]}" --worker=all
  rm -r "$(dirname "$archive")"
  # uv provides Python 3.12; the Python of the image is older than 3.11.
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
  # setsid and the log file keep the run alive when the connection, which only watches it, ends.
  # JAX_PLATFORMS makes jax fail where it would otherwise use the CPU.
  local flags
  if [[ " $*" =~ \ --?workdir[=\ ] ]]; then
    fail "set the variable WORKDIR instead of the flag --workdir; fetch reads it, too." 2
  fi
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
  *) fail "give one of these commands: create, install, run, stop, ssh, fetch, delete." 2 ;;
esac
