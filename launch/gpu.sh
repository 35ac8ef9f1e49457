#!/usr/bin/env bash
# Runs miue_jax on all GPUs of this host.
#
#   launch/gpu.sh --config=configs/cifar10.py --workdir=runs/cifar10
#   GPUS=0,1 launch/gpu.sh ...
#
# One process drives all of them: within a host jax needs neither a coordinator nor one process per
# GPU. SIGTERM and Ctrl-C save; the same command continues, also on another number of GPUs.
set -euo pipefail

PYTHON=${PYTHON:-python}  # an interpreter with miue-jax[gpu]
GPUS=${GPUS:-}            # such as 0,1; empty: those of CUDA_VISIBLE_DEVICES, else all
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}  # share of memory

if ! found=$(nvidia-smi --list-gpus 2>/dev/null) || [[ -z $found ]]; then
  echo "gpu.sh: nvidia-smi finds no GPU; install the driver, or run miue_jax.main directly." >&2
  exit 2
fi
echo "$found" >&2
if [[ $GPUS ]]; then
  export CUDA_VISIBLE_DEVICES=$GPUS
fi

# Without this variable jax would use the CPU where it cannot use CUDA.
export JAX_PLATFORMS=cuda,cpu
# In a Slurm allocation of several tasks, --distributed=auto would wait for the other tasks.
exec "$PYTHON" -m miue_jax.main --distributed=off "$@"
