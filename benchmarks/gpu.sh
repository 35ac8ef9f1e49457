#!/usr/bin/env bash
# Measures one GPU in about 12 minutes (an H200), and writes everything into one JSON file.
#
#   benchmarks/gpu.sh CIFAR10 OUT.json
#
# CIFAR10 has the folders train and test, with a folder of images for each class. Nothing is
# downloaded. What is measured:
#
#   speed    delta and training steps at several batches, beside PyTorch, and the matrix peak
#   whole    the recipe `fast` from the images to the accuracy of three victims
#   resumed  whether a generation that was killed and resumed has the bytes of a whole one
#
# The variables below make a rehearsal on a CPU small; tests/benchmarks/test_gpu.py is one.
set -euo pipefail

PYTHON=${PYTHON:-python}                     # an interpreter with miue-jax[gpu,torch]
PLATFORM=${PLATFORM:-cuda,cpu}               # cpu for a rehearsal
BATCHES=${BATCHES:-"512 1024 2048"}          # of the delta and the training steps
SECONDS_EACH=${SECONDS_EACH:-2}              # of a run of a step
MATRIX=${MATRIX:-8192}                       # rows and columns of the matrices of the peak
RECIPE=${RECIPE:-configs/cifar10.py:fast}
STEPS=${STEPS:-configs/cifar10.py}           # recipe of the steps; PyTorch's side has no crops
CHANGES=${CHANGES:-}                         # flags of all programs, such as --config.seed=1
KILL_AFTER=${KILL_AFTER:-25}                 # seconds until the generation is killed
KILL_EPOCHS=${KILL_EPOCHS:-4}                # epochs of the generation that is killed

if [[ $# -ne 2 ]]; then
  echo "usage: benchmarks/gpu.sh CIFAR10 OUT.json" >&2
  exit 2
fi
data=$(realpath "$1")
out=$(realpath -m "$2")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export JAX_PLATFORMS=$PLATFORM PYTHONPATH=$PWD
read -ra changes <<<"$CHANGES"

recipe=("--config=$RECIPE")
half=(--config.method.model.dtype=bfloat16 --config.victim.dtype=bfloat16)
folder=(--config.data.source=folder "--config.data.path=$data")

"$PYTHON" -m benchmarks.gpu peak --size="$MATRIX" --output="$work/peak.json"
for batch in $BATCHES; do
  "$PYTHON" -m benchmarks.speed "--config=$STEPS" "${half[@]}" "${changes[@]}" \
    "--config.method.batch_size=$batch" "--config.method.source.batch_size=$batch" \
    "--config.victim_fit.batch_size=$batch" --stages=delta,source,victim --repeats=3 \
    "--seconds=$SECONDS_EACH" --peer_compile "--output=$work/speed-$batch.json" >/dev/null
done

began=$(date +%s)
"$PYTHON" -m miue_jax.main "${recipe[@]}" "${folder[@]}" "${half[@]}" "${changes[@]}" \
  "--workdir=$work/whole" "--config.evaluate.conditions=('clean','poison')" \
  "--config.evaluate.seeds=(0,1,2)" >/dev/null
echo $(($(date +%s) - began)) >"$work/whole.seconds"

# Operations whose order of additions varies would change bytes from run to run.
if [[ $PLATFORM == cuda* ]]; then
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_exclude_nondeterministic_ops=true"
fi
generate=("$PYTHON" -m miue_jax.main "${recipe[@]}" "${folder[@]}" "${half[@]}" "${changes[@]}"
  --mode=generate "--config.method.epochs=$KILL_EPOCHS" --config.method.checkpoint_every=1)
"${generate[@]}" "--workdir=$work/once" >/dev/null
timeout --signal=KILL "$KILL_AFTER" "${generate[@]}" "--workdir=$work/killed" >/dev/null || true
"${generate[@]}" "--workdir=$work/killed" >/dev/null

"$PYTHON" -m benchmarks.gpu collect "$work" --output="$out"
