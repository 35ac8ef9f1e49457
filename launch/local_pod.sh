#!/usr/bin/env bash
# N processes of miue_jax on this machine, connected as the hosts of a pod are: the rehearsal.
#
#   launch/local_pod.sh N [FLAGS OF miue_jax.main...]
#   launch/local_pod.sh 2 --config=configs/digits.py --workdir=runs/pod
#
# Every line of output starts with the number of its process. SIGTERM, SIGINT (Ctrl-C) and SIGHUP
# go to all processes, which save and leave; the same command continues. Exit status: the first one
# that was not 0.
set -euo pipefail

PYTHON=${PYTHON:-python}                              # the interpreter
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}            # what the processes compute on
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-1}  # devices of each process
GRACE=${GRACE:-60}  # seconds in which the others may notice that one failed, before they are killed

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local_pod.sh N [FLAGS...], with N processes: a number from 1" >&2
  exit 2
fi
n=$1
shift

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 10000))  # below what the kernel hands out to clients
    # It is free where nobody answers.
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

prefixed() {
  local line
  # The last line may lack its end.
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

# Job control gives each child a process group of its own: without it a child would ignore SIGINT
# from birth, and a Ctrl-C would reach it twice, from the terminal and from here; the second signal
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
  wait $! || true  # a builtin: unlike a sleep in the foreground, a signal ends it at once
  for i in "${!pids[@]}"; do
    pid=${pids[i]}
    if kill -s 0 "$pid" 2>/dev/null; then continue; fi
    code=0
    wait "$pid" || code=$?
    unset "pids[i]"
    kill -s KILL -- "-$pid" 2>/dev/null || true  # what the process itself left behind
    if ((code && !status)); then
      status=$code deadline=$((SECONDS + GRACE))
      echo "local_pod.sh: process $i ended with status $code" >&2
    fi
  done
  if [[ $deadline ]] && ((SECONDS > deadline)) && ((${#pids[@]})); then
    echo "local_pod.sh: killing what still runs after $GRACE s: process ${!pids[*]}" >&2
    for pid in "${pids[@]}"; do kill -s KILL -- "-$pid" 2>/dev/null || true; done
    deadline=
  fi
done
wait "${writers[@]}"
exit "$status"
