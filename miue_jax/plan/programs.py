"""The steps of a config as programs, from sizes alone: what `plan` costs and `benchmark` times.

All functions here build for the mesh that is set.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import models
from miue_jax.experiment import evaluate as victims
from miue_jax.machine.meshes import AXIS
from miue_jax.methods import BILEVEL, METHODS, alternating
from miue_jax.methods import delta as deltas
from miue_jax.plan.cost import Cost, analyse
from miue_jax.plan.sizes import Sizes
from miue_jax.settings.config import Config, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, lanes

NAMES = ("delta", "source", "victim", "evaluate")


@dataclasses.dataclass(frozen=True)
class Program:
  """One compiled step and what it takes.

  Attributes:
    name: one of `NAMES`.
    batch: images that one step reads, padding included.
    steps: of one pass over the training (evaluate: test) images; of delta, sign steps.
    step: `(carry, constants, index) -> carry`; None for evaluate.
    function: the step compiled, `function(*arguments)`.
    rows: images that `arguments` takes.
    arguments: `(images uint8 [rows, H, W, C], labels int32 [rows]) -> arguments`, traceable.
    specs: how the arguments lie on the mesh, a prefix of them.
    image: height, width, channels.
    classes: number of classes.
  """

  name: str
  batch: int
  steps: int
  step: Callable | None
  function: Any
  rows: int
  arguments: Callable[[Any, Any], tuple]
  specs: tuple
  image: tuple[int, int, int]
  classes: int

  def abstract(self) -> tuple:
    """Arguments as shapes with their shardings."""
    images = jax.ShapeDtypeStruct((self.rows, *self.image), jnp.uint8)
    labels = jax.ShapeDtypeStruct((self.rows,), jnp.int32)
    return jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      *self._with_shardings(jax.eval_shape(self.arguments, images, labels)),
    )

  def concrete(self, seed: int) -> tuple:
    """Arguments on the devices: random pixels and labels, a model with fresh weights."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (self.rows, *self.image), np.uint8)
    labels = (generator.permutation(self.rows) % self.classes).astype(np.int32)
    made = jax.jit(self.arguments, compiler_options=_unoptimised())(images, labels)
    return jax.device_put(*self._with_shardings(made))

  def compile(self) -> jax.stages.Compiled:
    """Compiles one step ahead of time; nothing is computed."""
    # For reading costs: how well the code of a CPU kernel is optimised changes none of them.
    return self.function.lower(*self.abstract()).compile(compiler_options=_unoptimised())

  def cost(self) -> Cost:
    """What one step costs on the mesh."""
    # With a precision asked for, a CPU convolves as all other chips do, and its FLOPs are counted.
    with jax.default_matmul_precision("highest"):
      return analyse(self.compile(), jax.sharding.get_mesh().size)

  def _with_shardings(self, arguments: tuple) -> tuple[tuple, tuple]:
    mesh = jax.sharding.get_mesh()
    shardings = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), self.specs)
    return arguments, jax.tree.broadcast(shardings, arguments)


def _unoptimised() -> dict[str, int] | None:
  """Compiler options for what is not timed: XLA's CPU backend takes long to optimise."""
  on_cpu = jax.sharding.get_mesh().devices.flat[0].platform == "cpu"
  return {"xla_backend_optimization_level": 0} if on_cpu else None


def build(name: str, config: Config, sizes: Sizes) -> Program:
  """Builds one of `NAMES` for a dataset of these sizes.

  Raises:
    UserError: a method that is unknown or has other steps, images that do not fit the network,
      fewer images than a batch, or a batch that the devices do not divide.
  """
  _bilevel(config)
  return {"delta": _delta, "source": _source, "victim": _victim, "evaluate": _evaluate}[name](
    config, sizes
  )


def runs(config: Config, sizes: Sizes) -> dict[str, int]:
  """How many steps of each program a whole run takes at most: generation, then all victims.

  A victim is tested after every epoch and once more at its end.
  """
  victim, count = config.victim_fit, len(list(victims.cells(config)))
  return {
    **_generation(config, sizes),
    "victim": count * victim.epochs * (sizes.train // victim.batch_size),
    "evaluate": count * (victim.epochs + 1) * math.ceil(sizes.test / _evaluation_batch(sizes.test)),
  }


def passes(config: Config, sizes: Sizes) -> tuple[int, int]:
  """Dataset passes of a whole run: those that make the poison, each sign step one, and victims'."""
  steps, layout = _generation(config, sizes), generation_layout(config, sizes.train)
  delta = steps["delta"] / layout.steps(config.method.batch_size, partial=True)
  source = steps["source"] / layout.steps(config.source.batch_size, partial=False)
  return round(delta + source), len(list(victims.cells(config))) * config.victim_fit.epochs


def _generation(config: Config, sizes: Sizes) -> dict[str, int]:
  """How many source and delta steps make a poison, at most."""
  segments = alternating.schedule(config, generation_layout(config, sizes.train))
  return {
    kind: config.method.members * sum(segment.steps for segment in segments if segment.kind == kind)
    for kind in ("delta", "source")
  }


def parameters(config: Config, sizes: Sizes) -> dict[str, int]:
  """Number of parameters of the source model and of the victim."""
  counts = {}
  for role, model in (("source", config.model), ("victim", config.victim)):
    module = models.build(model, _outputs(config, role, sizes), sizes.image)
    state = jax.eval_shape(lambda m=module: models.init(m, jax.random.key(0), sizes.image))
    counts[role] = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
  return counts


def generation_layout(config: Config, count: int) -> lanes.Layout:
  """How the training images lie while the poison is made."""
  return lanes.lay_out(count, (config.source.batch_size, config.method.batch_size), config.seed)


def _bilevel(config: Config) -> alternating.Bilevel:
  name = config.method.name
  if name not in BILEVEL:
    problem = "has other steps than those known here" if name in METHODS else "is unknown"
    raise UserError(
      f"Method {name!r} {problem}: plans and benchmarks are of {', '.join(sorted(BILEVEL))}."
    )
  return BILEVEL[name](config.method)


def _delta(config: Config, sizes: Sizes) -> Program:
  method = config.method
  _check_batch("method.batch_size", method.batch_size, sizes)
  module, new_state, _ = _model(config, "source", sizes)
  layout = generation_layout(config, sizes.train)
  bilevel = _bilevel(config)
  step = alternating.delta_step(bilevel, module, method, sizes.classes)

  def arguments(images, labels):
    delta, perturbed = _perturbation(config, images, sizes)
    constants = deltas.DeltaPass(
      new_state(),
      _pass(layout, images, labels, method.batch_size, None),
      perturbed,
      jnp.float32(method.step_size_start),
      jnp.float32(method.epsilon),
    )
    beside = deltas.auxiliary_state(bilevel.auxiliary, module, jax.random.key(0), sizes.image)
    return (delta, _no_sums(), beside), constants, jnp.int32(0)

  delta_spec = _delta_spec(config)
  constants_spec = deltas.DeltaPass(
    jax.P(), fit.pass_spec(delta_spec), jax.P(AXIS), jax.P(), jax.P()
  )
  return Program(
    "delta",
    method.batch_size,
    layout.steps(method.batch_size, partial=True) * method.steps,
    step,
    jax.jit(step, donate_argnums=0),
    len(layout.ids),
    arguments,
    ((delta_spec, jax.P(), jax.P()), constants_spec, jax.P()),
    sizes.image,
    sizes.classes,
  )


def _source(config: Config, sizes: Sizes) -> Program:
  spec = (_delta_spec(config), jax.P(AXIS))
  layout = generation_layout(config, sizes.train)
  return _training(
    "source",
    config,
    sizes,
    config.source,
    layout,
    lambda module, optimiser: alternating.source_step(_bilevel(config), module, optimiser, config),
    lambda images: _perturbation(config, images, sizes),
    spec,
  )


def _victim(config: Config, sizes: Sizes) -> Program:
  recipe = config.victim_fit
  layout = lanes.lay_out(sizes.train, (recipe.batch_size,), 0)
  spec = jax.P(AXIS)

  def step(module, optimiser):
    return fit.train_step(module, optimiser, fit.plain_inputs(recipe.augment), spec)

  return _training("victim", config, sizes, recipe, layout, step, lambda images: None, spec)


def _training(
  name: str,
  config: Config,
  sizes: Sizes,
  recipe: Sgd,
  layout: lanes.Layout,
  make_step: Callable[[nn.Module, Any], Callable],
  perturbation: Callable[[Any], Any],
  spec: Any,
) -> Program:
  key = "source.batch_size" if name == "source" else "victim_fit.batch_size"
  _check_batch(key, recipe.batch_size, sizes)
  module, new_state, optimiser = _model(config, name, sizes)
  step = make_step(module, optimiser)

  def arguments(images, labels):
    constants = _pass(layout, images, labels, recipe.batch_size, perturbation(images))
    return (new_state(), _no_sums()), constants, jnp.int32(0)

  return Program(
    name,
    recipe.batch_size,
    layout.steps(recipe.batch_size, partial=False),
    step,
    jax.jit(step, donate_argnums=0),
    len(layout.ids),
    arguments,
    (jax.P(), fit.pass_spec(spec), jax.P()),
    sizes.image,
    sizes.classes,
  )


def _evaluate(config: Config, sizes: Sizes) -> Program:
  module, new_state, _ = _model(config, "victim", sizes)
  batch = _evaluation_batch(sizes.test)
  return Program(
    "evaluate",
    batch,
    math.ceil(sizes.test / batch),
    None,
    fit.inference(module, jax.sharding.get_mesh()),
    batch,
    lambda images, labels: (new_state().variables, images),
    (jax.P(), jax.P(AXIS)),
    sizes.image,
    sizes.classes,
  )


def _evaluation_batch(count: int) -> int:
  """Batch of `fit.Predictor` for `count` images."""
  devices = jax.sharding.get_mesh().size
  return -(-min(fit.EVALUATION_BATCH, count) // devices) * devices


def _check_batch(key: str, batch: int, sizes: Sizes) -> None:
  devices = jax.sharding.get_mesh().size
  if batch % devices:
    raise UserError(f"{key} is {batch}, which {devices} devices do not divide: change one of them.")
  if sizes.train < batch:
    raise UserError(f"{sizes.train} training images do not fill one batch of {batch}: lower {key}.")


def _model(config: Config, role: str, sizes: Sizes) -> tuple[nn.Module, Callable, Any]:
  """The network of a role, a function that makes its fresh state, and its optimiser."""
  victim = role == "victim"
  model = config.victim if victim else config.model
  module = models.build(model, _outputs(config, role, sizes), sizes.image)
  recipe: Sgd = config.victim_fit if victim else config.source
  epochs = config.victim_fit.epochs if victim else config.method.epochs
  optimiser = fit.sgd(recipe, epochs, max(sizes.train // recipe.batch_size, 1))

  def new_state() -> fit.State:
    variables = models.init(module, jax.random.key(config.seed), sizes.image)
    params = variables["params"]
    return fit.State(params, variables["batch_stats"], optimiser.init(params))

  return module, new_state, optimiser


def _outputs(config: Config, role: str, sizes: Sizes) -> int:
  """Of the network of a role."""
  return sizes.classes if role == "victim" else _bilevel(config).outputs or sizes.classes


def _pass(layout: lanes.Layout, images: Any, labels: Any, batch: int, delta: Any) -> fit.Pass:
  key = jax.random.key(0)
  table = lanes.Table(images, labels, layout.ids)
  return fit.Pass(table, delta, lanes.shuffle(key, layout.ids, batch), key)


def _perturbation(config: Config, images: Any, sizes: Sizes) -> tuple[jax.Array, jax.Array]:
  """Delta where nothing has moved yet, and which rows may move."""
  count = sizes.classes if config.method.class_wise else len(images)
  return jnp.zeros((count, *sizes.image), jnp.int16), jnp.ones(len(images), bool)


def _delta_spec(config: Config) -> jax.P:
  return jax.P() if config.method.class_wise else jax.P(AXIS)


def _no_sums() -> fit.Sums:
  return fit.Sums(*[jnp.float32(0) for _ in range(4)], jnp.int32(-1))
