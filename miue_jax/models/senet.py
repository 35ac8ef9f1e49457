"""Provides SENet-18: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.

In its usual form for CIFAR, SENet-18 is a ResNet-18 of pre-activation blocks, each with a gate. It
has batch norm and ReLU after the stem but not before the global average.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.models import layers
from miue_jax.models.resnet import ResNet
from miue_jax.models.wide_resnet import PreActBlock

REDUCTION = 16


def squeeze_excite(x: jax.Array, dtype: str) -> jax.Array:
  """Scales every channel by a gate in (0, 1), computed from all channel averages (section 3).

  The call must be inside a module, which then owns the two hidden layers.
  """
  channels = x.shape[-1]
  squeezed = layers.global_average(x)
  hidden = layers.relu(layers.dense(max(1, channels // REDUCTION), dtype=dtype)(squeezed))
  gate = nn.sigmoid(layers.dense(channels, dtype=dtype)(hidden))
  return x * jnp.expand_dims(gate, (1, 2))


gated_block = functools.partial(PreActBlock, gate=squeeze_excite)
senet18 = functools.partial(ResNet, depths=(2, 2, 2, 2), block=gated_block)
