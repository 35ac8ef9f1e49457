"""Fast convolutions, compared with their definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.machine.cpu import convolution

NUMBERS = ("NHWC", "HWIO", "NHWC")

# images, output channels, side of the kernel, stride; then the operations that are expected
CASES = {
  "3x3, all by minimal filtering": ((4, 16, 16, 64), 96, 3, 1),
  "3x3, one tile per image": ((3, 4, 4, 96), 48, 3, 1),
  "3x3, wide, a prime batch of many parts": ((7, 32, 28, 48), 64, 3, 1),
  "3x3, narrow": ((3, 8, 12, 24), 5, 3, 1),
  "3x3, narrow, a prime batch of many parts": ((7, 32, 32, 24), 16, 3, 1),
  "3x3 with a stride": ((4, 16, 20, 24), 32, 3, 2),
  "1x1 with a stride": ((4, 16, 16, 24), 32, 1, 2),
  "too small": ((4, 4, 4, 64), 64, 3, 1),
  "few channels": ((4, 16, 16, 3), 64, 3, 1),
  "odd size": ((2, 9, 9, 24), 16, 3, 2),
}


def convolve(images, kernel, side, stride):
  padding = [(side // 2, side // 2)] * 2
  return convolution.convolve(images, kernel, (stride, stride), padding, dimension_numbers=NUMBERS)


def draw(shape, out, side, stride):
  """Returns images, kernel and gradient of the output, float32."""
  generator = np.random.default_rng(0)
  size = [-(-length // stride) for length in shape[1:3]]
  shapes = shape, (side, side, shape[-1], out), (shape[0], *size, out)
  return [generator.standard_normal(s).astype(np.float32) for s in shapes]


def definition(images, kernel, gradient, stride):
  """Computes outputs and both gradients in float64, tap by tap."""
  images, kernel, gradient = (x.astype(np.float64) for x in (images, kernel, gradient))
  side, border = len(kernel), len(kernel) // 2
  padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
  outputs, to_padded, to_kernel = 0, np.zeros_like(padded), np.zeros_like(kernel)
  for row in range(side):
    for column in range(side):
      seen = np.s_[
        :,
        row : row + stride * (gradient.shape[1] - 1) + 1 : stride,
        column : column + stride * (gradient.shape[2] - 1) + 1 : stride,
      ]
      outputs += padded[seen] @ kernel[row, column]
      to_padded[seen] += gradient @ kernel[row, column].T
      to_kernel[row, column] = np.tensordot(padded[seen], gradient, ([0, 1, 2], [0, 1, 2]))
  inside = np.s_[:, border : border + images.shape[1], border : border + images.shape[2]]
  return outputs, to_padded[inside], to_kernel


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(case):
  shape, out, side, stride = CASES[case]
  images, kernel, gradient = draw(shape, out, side, stride)
  outputs, pull = jax.vjp(lambda x, w: convolve(x, w, side, stride), images, kernel)
  expected = definition(images, kernel, gradient, stride)
  # Minimal filtering rounds more, ten times as much: see convolution._F4.
  wide = min(shape[-1], out) >= 48 and stride == 1
  tolerances = (3e-5, 3e-5, 3e-5) if wide else (3e-6, 3e-6, 3e-5)
  for found, truth, tolerance in zip((outputs, *pull(gradient)), expected, tolerances, strict=True):
    np.testing.assert_allclose(found, truth, rtol=0, atol=tolerance * np.abs(truth).max())


def primitives(case):
  """Returns the names of the operations in the gradient of both arguments."""
  shape, out, side, stride = CASES[case]
  images, kernel, gradient = draw(shape, out, side, stride)

  def loss(images, kernel):
    return jnp.vdot(convolve(images, kernel, side, stride), gradient)

  return str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(images, kernel))


def test_where_minimal_filtering_is_used():
  counts = {case: primitives(case).count("conv_general_dilated[") for case in CASES}
  assert counts["3x3, all by minimal filtering"] == counts["3x3, one tile per image"] == 0
  assert counts["1x1 with a stride"] == 0
  # forward, and the gradient of the images
  assert counts["3x3, narrow"] == counts["3x3 with a stride"] == 2
  assert counts["too small"] == counts["few channels"] == counts["odd size"] == 3


def test_a_precision_asks_for_the_convolution_of_xla():
  with jax.default_matmul_precision("highest"):
    assert primitives("3x3, all by minimal filtering").count("conv_general_dilated[") == 3


@pytest.mark.slow
@pytest.mark.parametrize("case", ["3x3, all by minimal filtering", "1x1 with a stride"])
def test_gradients_are_summed_over_devices(use_devices, case):
  use_devices(4)
  shape, out, side, stride = CASES[case]
  images, kernel, gradient = draw(shape, out, side, stride)

  @jax.jit
  @functools.partial(
    jax.shard_map,
    in_specs=(jax.P("data"), jax.P(), jax.P("data")),
    out_specs=(jax.P("data"), jax.P()),
  )
  def gradients(images, kernel, gradient):
    def loss(images, kernel):
      local = jnp.sum(convolve(images, kernel, side, stride) * gradient)
      return jax.lax.psum(local, "data")

    return jax.grad(loss, (0, 1))(images, kernel)

  _, *expected = definition(images, kernel, gradient, stride)
  for found, truth in zip(gradients(images, kernel, gradient), expected, strict=True):
    np.testing.assert_allclose(found, truth, rtol=0, atol=3e-5 * np.abs(truth).max())
