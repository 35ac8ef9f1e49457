#!/usr/bin/env bash
# All GPUs of this host.
#
#   launch/gpu.sh --config=configs/cifar10.py --workdir=runs/cifar10
#   GPUS=0,1 launch/gpu.sh ...
#
# One process drives them all: within a host jax needs neither a coordinator nor one process per
# GPU. SIGTERM and Ctrl-C save; the same command continues, also on another number of GPUs.
set -euo pipefail

PYTHON=${PYTHON:-python}  # an interpreter with miue-jax[gpu]
GPUS=${GPUS:-}            # which ones: 0,1,...; empty for all (or what CUDA_VISIBLE_DEVICES says)
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}  # of each GPU's memory

if ! found=$(nvidia-smi --list-gpus 2>/dev/null) || [[ -z $found ]]; then
  echo "gpu.sh: nvidia-smi finds no GPU here; install the driver, or run miue_jax.main itself." >&2
  exit 2
fi
echo "$found" >&2
if [[ $GPUS ]]; then
  export CUDA_VISIBLE_DEVICES=$GPUS
fi

# Named, because jax would otherwise fall back to the CPU when it cannot use CUDA.
export JAX_PLATFORMS=cuda,cpu
# Inside a Slurm allocation of several tasks, --distributed=auto would wait for the others.
exec "$PYTHON" -m miue_jax.main --distributed=off "$@"
