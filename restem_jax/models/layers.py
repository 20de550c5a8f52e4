"""The pieces of a Transformer layer that are not attention.

In and out: activations `[B, T, D]`. Norms and rotary angles are computed in
f32 whatever the compute dtype. What is *not* here: attention, caches, the
stack of layers.
"""

import functools
import math
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from restem_jax.models import remat
from restem_jax.models.config import ModelConfig, RopeScaling

MASKED = -1e30  # a logit that counts for nothing
# Above `MASKED`, below any logit: a row that sees nothing gives zeros.
LOWEST = -1e29


def param(
  rngs: nnx.Rngs,
  shape: tuple[int, ...],
  axes: tuple[str, ...],
  fan_in: int | None = None,
) -> nnx.Param:
  """An f32 parameter with logical axes: normal / sqrt(fan_in).

  Without `fan_in` it is a norm's scale (ones), with 0 a bias (zeros).
  """
  assert len(shape) == len(axes), (shape, axes)
  if not fan_in:
    value = jnp.full(shape, 1.0 if fan_in is None else 0.0, jnp.float32)
  else:
    value = jax.random.normal(rngs.params(), shape) / math.sqrt(fan_in)
  return nnx.Param(value, axes=axes)


class LowRank(NamedTuple):
  """A frozen weight with an update of low rank: w + a b.

  It may stand in a tree of parameters instead of a weight that `project`
  reads. `in` and `out` are the weight's dimensions, whatever their number.
  """

  w: Array  # [*in, *out]
  a: Array  # [*in, rank]
  b: Array  # [rank, *out]


def project(x: Array, weight: nnx.Param, num_in: int = 1) -> Array:
  """A linear layer: the last `num_in` dimensions of x times a weight's first.

  A `LowRank` weight is never added up: x w + (x a) b costs less than w + a b
  does, and in the backward pass nothing of the size of w is made.

  Args:
    x: activations `[B, T, *in]`.
    weight: `[*in, *out]`, an array or a `LowRank`.
    num_in: how many dimensions `in` are.

  Returns:
    `[B, T, *out]`.
  """
  w: Any = weight.get_value()
  if not isinstance(w, LowRank):
    return linear(x, w, num_in)
  # Not by `linear`, whose backward pass asks for the gradient of w as well.
  update = jnp.tensordot(jnp.tensordot(x, w.a, num_in), w.b, 1)
  return jnp.tensordot(x, w.w, num_in) + update


def rms_norm(
  x: Float[Array, '*B D'], scale: Float[Array, ' D'], eps: float
) -> Float[Array, '*B D']:
  """x / rms(x) * scale over the last axis, in f32 (arXiv 1910.07467)."""
  x32 = x.astype(jnp.float32)
  inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
  scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
  return (x32 * inverse * scale.astype(jnp.float32)).astype(x.dtype)


def product(formula: str, x: Array, y: Array) -> Array:
  """einsum to f32; on CPUs in f32 before jax 0.12.

  XLA had no batched bf16 products there. Since then they are up to 9 times as
  fast as converting to f32 is.
  """

  def einsum(x, y):
    return jnp.einsum(formula, x, y, preferred_element_type=jnp.float32)

  def wide(x, y):
    return einsum(x.astype(jnp.float32), y.astype(jnp.float32))

  def kept(x, y):
    # Or XLA merges a transpose of the result into a product that it then finds
    # it does not have, when it runs.
    return jax.lax.optimization_barrier(einsum(x, y))

  if x.dtype == jnp.float32:
    return einsum(x, y)
  cpu = kept if jax.__version_info__ >= (0, 12) else wide
  return jax.lax.platform_dependent(x, y, cpu=cpu, default=einsum)


def soft_cap(x: Array, cap: float | None) -> Array:
  """cap * tanh(x / cap): Gemma 2 (arXiv 2408.00118 §2)."""
  return x if cap is None else jnp.tanh(x / cap) * cap


def rope_frequencies(
  head_dim: int, theta: float, scaling: RopeScaling | None
) -> Float[Array, ' half']:
  """Angular frequencies `[head_dim / 2]`, radians per token, f32."""
  exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  freqs = theta**-exponent
  if scaling is None:
    return freqs
  if scaling.kind == 'linear':
    return freqs / scaling.factor
  # llama3: by wavelength; between the two borders the blend is linear.
  turns = scaling.original_max_len * freqs / (2 * math.pi)
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  return keep * freqs + (1 - keep) * freqs / scaling.factor


def rope_angles(
  positions: Int[Array, 'B T'], freqs: Float[Array, ' half']
) -> tuple[Float[Array, 'B T half'], Float[Array, 'B T half']]:
  """sin and cos of position * frequency, f32."""
  angles = positions[..., None].astype(jnp.float32) * freqs[None, None]
  return jnp.sin(angles), jnp.cos(angles)


def rotate(x: Array, sin: Array, cos: Array) -> Array:
  """Rotary embedding, rotate-half form (arXiv 2104.09864 §3.4).

  Args:
    x: `[B, T, ..., head_dim]`.
    sin: `[B, T, head_dim / 2]`, f32.
    cos: as `sin`.

  Returns:
    `x` with the pairs (i, i + head_dim / 2) rotated; dtype of `x`.
  """
  heads = (1,) * (x.ndim - 3)
  sin, cos = (a.reshape(a.shape[:2] + heads + a.shape[2:]) for a in (sin, cos))
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate(
    [a * cos - b * sin, b * cos + a * sin], axis=-1
  ).astype(x.dtype)


def linear(x: Array, w: Array, num_in: int = 1) -> Array:
  """The last `num_in` dimensions of x, times a weight's first.

  Only the backward pass is its own: of JAX's, XLA makes products on CPUs for
  which it has nothing but slow loops (docs/performance.md).

  Args:
    x: activations `[*rows, *in]`.
    w: `[*in, *out]`.
    num_in: how many dimensions `in` are.

  Returns:
    `[*rows, *out]`.
  """
  out: Any = _linear(x, w, num_in)  # custom_vjp has no type
  return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _linear(x, w, num_in):
  return jnp.tensordot(x, w, num_in)


def _linear_backward(num_in, kept, grad):
  x, w = kept

  def plain(x, w, grad):
    lead = x.ndim - num_in
    rows, out = range(lead), range(lead, grad.ndim)
    dx = jnp.tensordot(grad, w, (tuple(out), tuple(range(num_in, w.ndim))))
    return dx, jnp.tensordot(x, grad, (tuple(rows), tuple(rows)))

  def rows_and_columns(x, w, grad):
    shapes = x.shape, w.shape
    w = w.reshape(math.prod(w.shape[:num_in]), -1)
    x, grad = x.reshape(-1, w.shape[0]), grad.reshape(-1, w.shape[1])
    if w.dtype != jnp.float32:
      dx, dw = grad @ _transposed(w), _transposed(x) @ grad
    elif w.shape[0] <= w.shape[1]:
      dx, dw = grad @ w.T, x.T @ grad
    else:  # the narrower one is the one to be transposed
      dx, dw = grad @ w.T, jax.lax.optimization_barrier(grad.T @ x).T
    return dx.reshape(shapes[0]), dw.reshape(shapes[1])

  return jax.lax.platform_dependent(
    x, w, grad, cpu=rows_and_columns, default=plain
  )


def _transposed(x: Array) -> Array:
  """A transpose that exists in memory, and not only as a layout.

  XLA's CPU products of bf16 convert operands in another layout to f32.
  """
  flat = jax.lax.optimization_barrier(x.T.reshape(-1))
  return flat.reshape(x.shape[::-1])


_linear.defvjp(
  lambda x, w, num_in: (jnp.tensordot(x, w, num_in), (x, w)), _linear_backward
)


@jax.custom_vjp
def apart(x: Array) -> Array:
  """x itself; on TPUs its gradient is whole before anything is made of it.

  For what goes into large matmuls: XLA adds up their gradients inside the last
  of them, and computes the backward pass of the norm before in it as well. That
  one then takes 2.6 times as long as a matmul (docs/scale.md).
  """
  return x


apart.defvjp(
  lambda x: (x, None),
  lambda _, grad: (
    jax.lax.platform_dependent(
      grad, tpu=jax.lax.optimization_barrier, default=lambda grad: grad
    ),
  ),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def unembed(
  x: Float[Array, '*B D'], w: Array, axes: str
) -> Float[Array, '*B V']:
  """f32 logits: x times the head, which has `axes` 'dv', or 'vd' if it is tied.

  The backward pass is of products of the operands' dtype: left to JAX, they
  would be of the f32 gradient, which GPUs compute at half the rate.
  """
  formula = f'...d,{axes}->...v'
  return jnp.einsum(formula, x, w, preferred_element_type=jnp.float32)


def _unembed_backward(axes, kept, grad):
  x, w = kept
  grad, rows = grad.astype(x.dtype), tuple(range(x.ndim - 1))
  dx = jnp.einsum(f'...v,{axes}->...d', grad, w)
  pair = (grad, x) if axes == 'vd' else (x, grad)
  return dx, jnp.tensordot(*pair, (rows, rows))


unembed.defvjp(
  lambda x, w, axes: (unembed(x, w, axes), (x, w)), _unembed_backward
)


class Mlp(nnx.Module):
  """Gated MLP: (act(x gate) * (x up)) down (arXiv 2002.05202)."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    n, d, f = config.num_layers, config.embed_dim, config.mlp_dim
    self.config = config
    self.gate = param(rngs, (n, d, f), ('layers', 'embed', 'mlp'), d)
    self.up = param(rngs, (n, d, f), ('layers', 'embed', 'mlp'), d)
    self.down = param(rngs, (n, f, d), ('layers', 'mlp', 'embed'), f)

  def __call__(self, x: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
    act = jax.nn.silu if self.config.activation == 'silu' else jax.nn.gelu
    gate = remat.named(project(apart(x), self.gate), remat.MLP)
    up = remat.named(project(apart(x), self.up), remat.MLP)
    return project(act(gate) * up, self.down)
