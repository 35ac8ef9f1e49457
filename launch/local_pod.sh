#!/usr/bin/env bash
# Rehearses a pod: starts N processes of miue_jax on this machine, connected like its hosts.
#
#   launch/local_pod.sh N [FLAGS OF miue_jax.main...]
#   launch/local_pod.sh 2 --config=configs/digits.py --workdir=runs/pod
#
# Every line of output starts with the number of its process. SIGTERM, SIGINT (Ctrl-C) and SIGHUP
# go to all processes, which save their state and leave; the same command continues. The exit status
# is the first one that was not 0.
set -euo pipefail

PYTHON=${PYTHON:-python}                              # interpreter with miue-jax
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}            # platform of the processes
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-1}  # devices of each process
GRACE=${GRACE:-60}  # seconds that the others get to notice a failure before they are killed

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local_pod.sh N [FLAGS...]; N is the number of processes, 1 or more" >&2
  exit 2
fi
n=$1
shift

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 10000))  # below the range that the kernel assigns to clients
    # The port is free if no connection can be made.
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

prefixed() {
  local line
  # The last line may have no newline.
  while IFS= read -r line || [[ $line ]]; do printf '[%s] %s\n' "$1" "$line"; done
}

pids=()
# shellcheck disable=SC2329  # called by a trap
forward() {
  local pid
  for pid in "${pids[@]}"; do kill -s "$1" "$pid" 2>/dev/null || true; done
}

pipes=$(mktemp -d)
# shellcheck disable=SC2329  # called by a trap
clean() {
  local pid
  for pid in "${pids[@]}"; do kill -s KILL -- "-$pid" 2>/dev/null || true; done
  rm -rf "$pipes"
}
trap clean EXIT
trap 'forward TERM' TERM HUP
trap 'forward INT' INT

# Job control gives each child a separate process group. Without it a child would start with SIGINT
# ignored, and Ctrl-C would reach it twice, from the terminal and from this script. The second one
# makes miue_jax leave without saving.
set -m

JAX_COORDINATOR_ADDRESS=127.0.0.1:$(free_port)
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$n PYTHONUNBUFFERED=1
writers=()
for ((i = 0; i < n; i++)); do
  mkfifo "$pipes/$i"
  prefixed "$i" <"$pipes/$i" &
  writers+=($!)
  JAX_PROCESS_ID=$i "$PYTHON" -m miue_jax.main "$@" </dev/null >"$pipes/$i" 2>&1 &
  pids+=($!)
done

status=0 deadline=
while ((${#pids[@]})); do
  sleep 0.2 &
  wait $! || true  # a signal ends this builtin at once, but not a sleep in the foreground
  for i in "${!pids[@]}"; do
    pid=${pids[i]}
    if kill -s 0 "$pid" 2>/dev/null; then continue; fi
    code=0
    wait "$pid" || code=$?
    unset "pids[i]"
    kill -s KILL -- "-$pid" 2>/dev/null || true  # children that it left
    if ((code && !status)); then
      status=$code deadline=$((SECONDS + GRACE))
      echo "local_pod.sh: process $i ended with status $code" >&2
    fi
  done
  if [[ $deadline ]] && ((SECONDS > deadline)) && ((${#pids[@]})); then
    echo "local_pod.sh: still running after $GRACE s, killed: process ${!pids[*]}" >&2
    for pid in "${pids[@]}"; do kill -s KILL -- "-$pid" 2>/dev/null || true; done
    deadline=
  fi
done
wait "${writers[@]}"
exit "$status"
