"""Compiles the steps of a config from sizes alone, for plans and benchmarks.

All functions build for the current mesh.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import models
from miue_jax.machine import cpu, loops
from miue_jax.machine.meshes import AXIS
from miue_jax.methods import METHODS
from miue_jax.methods.method import Phase
from miue_jax.methods.method import Sizes as TrainSizes
from miue_jax.plan.cost import Cost, analyse
from miue_jax.plan.sizes import Sizes
from miue_jax.settings.config import Config, batch_problems
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes, prediction, step


@dataclasses.dataclass(frozen=True)
class Program(Phase):
  """One compiled step and its arguments: a phase of the method, "victim" or "evaluate".

  It differs from a phase in three attributes: `step` is None for "evaluate", and `arguments` and
  `specs` are those of `function`.

  Attributes:
    function: The step compiled, `function(*arguments)`.
    image: Height, width, channels.
    classes: Number of classes.
  """

  step: Any
  function: Any
  image: tuple[int, int, int]
  classes: int

  @property
  def total(self) -> int:
    """Returns the number of steps of the whole run, at most."""
    return self.steps * self.segments

  def abstract(self) -> tuple:
    """Returns the arguments as shapes with their shardings."""
    images = jax.ShapeDtypeStruct((self.rows, *self.image), jnp.uint8)
    labels = jax.ShapeDtypeStruct((self.rows,), jnp.int32)
    return jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      *self._with_shardings(jax.eval_shape(self.arguments, images, labels)),
    )

  def concrete(self, seed: int) -> tuple:
    """Returns arguments on the devices: random pixels and labels, a model with initial weights."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (self.rows, *self.image), np.uint8)
    labels = (generator.permutation(self.rows) % self.classes).astype(np.int32)
    made = jax.jit(self.arguments, compiler_options=_unoptimised())(images, labels)
    return jax.device_put(*self._with_shardings(made))

  def lowered(self) -> jax.stages.Lowered:
    """Returns what an accelerator runs: a loop over steps, whose bounds are arguments."""
    if self.step is None:
      return self.function.lower(*self.abstract())
    *arguments, index = self.abstract()
    return jax.jit(loops.chunk(self.step), donate_argnums=0).lower(*arguments, index, index)

  def compile(self) -> jax.stages.Compiled:
    """Compiles one step ahead of time; nothing is computed."""
    # Optimising the code of CPU kernels would change no cost.
    return self.function.lower(*self.abstract()).compile(compiler_options=_unoptimised())

  def flops(self) -> float:
    """Returns the FLOPs of one step on all devices of the mesh, without compiling it."""
    return jax.sharding.get_mesh().size * cpu.flops(self.function, *self.abstract())

  def cost(self) -> Cost:
    """Returns the cost of one step on the mesh."""
    # With this precision a CPU uses XLA's convolutions, whose FLOPs XLA counts.
    with jax.default_matmul_precision("highest"):
      return analyse(self.compile(), jax.sharding.get_mesh().size)

  def _with_shardings(self, arguments: tuple) -> tuple[tuple, tuple]:
    mesh = jax.sharding.get_mesh()
    shardings = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), self.specs)
    return arguments, jax.tree.broadcast(shardings, arguments)


def _unoptimised() -> dict[str, int] | None:
  """Returns compiler options that skip slow optimisations, for programs that are not timed."""
  return {"xla_backend_optimization_level": 0} if cpu.in_use() else None


def build(config: Config, sizes: Sizes) -> dict[str, Program]:
  """Returns all programs of a run by name: phases of the method, training and test of a victim.

  Raises:
    UserError: The images do not fit a network, fill no batch, or the devices do not divide a batch.
  """
  devices = jax.sharding.get_mesh().size
  if problems := batch_problems(config, sizes.train, ("generate", "evaluate"), devices):
    raise UserError(f"{'; '.join(problems)}: change these settings.")
  given = TrainSizes(sizes.image, sizes.train, sizes.classes)
  phases = METHODS[config.method.name].phases(config.method, given, config.seed)
  poisons = config.method.ensemble
  phases = [dataclasses.replace(each, segments=poisons * each.segments) for each in phases]
  programs = {each.name: _of_phase(each, sizes) for each in (*phases, _victim(config, sizes))}
  return programs | {"evaluate": _evaluate(config, sizes)}


def generation(programs: dict[str, Program]) -> list[str]:
  """Returns the names of the programs that make the poison."""
  return [name for name in programs if name not in ("victim", "evaluate")]


def parameters(config: Config, sizes: Sizes) -> dict[str, int]:
  """Returns the numbers of parameters of the source model, if there is one, and of the victim."""
  source = getattr(config.method, "model", None)
  roles = ({"source": source} if source else {}) | {"victim": config.victim}
  counts = {}
  for role, model in roles.items():
    outputs = getattr(METHODS[config.method.name], "outputs", 0) if role == "source" else 0
    module = models.build(model, outputs or sizes.classes, sizes.image)
    state = jax.eval_shape(lambda m=module: models.init(m, jax.random.key(0), sizes.image))
    counts[role] = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
  return counts


def _of_phase(phase: Phase, sizes: Sizes) -> Program:
  values: dict[str, Any] = vars(phase) | {
    "arguments": lambda images, labels: (*phase.arguments(images, labels), jnp.int32(0)),
    "specs": (*phase.specs, jax.P()),
    "function": jax.jit(phase.step, donate_argnums=0),
  }
  return Program(**values, image=sizes.image, classes=sizes.classes)


def _victims(config: Config) -> int:
  """Returns how many victims a run trains."""
  wanted = config.evaluate
  return len(wanted.seeds) * len(wanted.defences) * len(wanted.conditions)


def _victim(config: Config, sizes: Sizes) -> Phase:
  fit = config.victim_fit
  layout = lanes.lay_out(sizes.train, (fit.batch_size,), 0)
  module = models.build(config.victim, sizes.classes, sizes.image)
  optimiser = step.sgd(fit, fit.epochs, max(sizes.train // fit.batch_size, 1))

  def arguments(images, labels):
    state = step.fresh_state(module, optimiser, jax.random.key(config.seed), sizes.image)
    constants = step.example_pass(layout, images, labels, fit.batch_size)
    return (state, step.Sums.empty()), constants

  return Phase(
    name="victim",
    batch=fit.batch_size,
    steps=layout.steps(fit.batch_size, partial=False),
    segments=_victims(config) * fit.epochs,
    passes=1,
    rows=len(layout.ids),
    step=step.train_step(module, optimiser, step.plain_inputs(fit.augment), jax.P(AXIS)),
    arguments=arguments,
    specs=(jax.P(), step.pass_spec(jax.P(AXIS))),
  )


def _evaluate(config: Config, sizes: Sizes) -> Program:
  """Returns the program that tests a victim, after every epoch and once after the last one."""
  module = models.build(config.victim, sizes.classes, sizes.image)
  batch = prediction.evaluation_batch(sizes.test)

  def arguments(images, labels):
    del labels
    return models.init(module, jax.random.key(config.seed), sizes.image), images

  return Program(
    name="evaluate",
    batch=batch,
    steps=math.ceil(sizes.test / batch),
    segments=_victims(config) * (config.victim_fit.epochs + 1),
    passes=0,
    rows=batch,
    step=None,
    arguments=arguments,
    specs=(jax.P(), jax.P(AXIS)),
    function=prediction.inference(module, jax.sharding.get_mesh()),
    image=sizes.image,
    classes=sizes.classes,
  )
