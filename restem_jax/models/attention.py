"""Grouped-query attention over fresh tokens and earlier context.

In: activations `[B, T, D]`, masks, one layer of context. Out: activations,
and the fresh tokens' keys and values. What is *not* here: storing them
(`cache`), and choosing kernels by platform.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from restem_jax.models import layers
from restem_jax.models.config import ModelConfig

_MASKED = -1e30  # finite: a row that sees nothing gives zeros, not NaN


class Part(NamedTuple):
  """One stretch of keys that the queries may see.

  A part with one row is shared by all rows of queries and attended as one
  matrix per kv head.
  """

  k: Float[Array, 'B K S hd']
  v: Float[Array, 'B K S hd']
  mask: Bool[Array, 'B T S']  # leading axes may be 1


def attend(
  q: Float[Array, 'B K G T hd'],
  parts: Sequence[Part],
  scale: float,
  softcap: float | None,
) -> Float[Array, 'B K G T hd']:
  """Softmax attention over the union of the parts' keys.

  The parts are merged by their common maximum and sum of exponentials, so
  the result equals attention over the concatenated keys. Logits and softmax
  are f32, the two matmuls run in the dtype of their operands.
  """
  logits = []
  for part in parts:
    x = _product('bkgth,bksh->bkgts', q, part.k)
    x = layers.soft_cap(x * scale, softcap)
    logits.append(jnp.where(part.mask[:, None, None], x, _MASKED))
  top = logits[0].max(-1)
  for x in logits[1:]:
    top = jnp.maximum(top, x.max(-1))
  total, out = jnp.float32(0), jnp.float32(0)
  for x, part in zip(logits, parts, strict=True):
    weights = jnp.where(
      part.mask[:, None, None], jnp.exp(x - top[..., None]), 0.0
    )
    total += weights.sum(-1)
    weights = weights.astype(part.v.dtype)
    out += _product('bkgts,bksh->bkgth', weights, part.v)
  return (out / jnp.maximum(total, 1e-30)[..., None]).astype(q.dtype)


def _product(formula: str, x: Array, y: Array) -> Array:
  """einsum to f32; without y's batch axis if its one row serves all of x."""
  if y.shape[0] == 1 and x.shape[0] > 1:
    formula, y = formula.replace('bksh', 'ksh'), y[0]
  return jnp.einsum(formula, x, y, preferred_element_type=jnp.float32)


class Attention(nnx.Module):
  """Projections, rotary embedding and attention of all L layers, stacked."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    c, n = config, config.num_layers
    d, h, k, hd = c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim
    self.config = config

    def project(heads: int, name: str) -> nnx.Param:
      axes = ('layers', 'embed', name, 'head_dim')
      return layers.param(rngs, (n, d, heads, hd), axes, d)

    def bias(heads: int, name: str) -> nnx.Param:
      axes = ('layers', name, 'head_dim')
      return layers.param(rngs, (n, heads, hd), axes, fan_in=0)

    def norm() -> nnx.Param:
      return layers.param(rngs, (n, hd), ('layers', 'head_dim'))

    self.q = project(h, 'heads')
    self.k = project(k, 'kv_heads')
    self.v = project(k, 'kv_heads')
    self.o = layers.param(
      rngs, (n, h, hd, d), ('layers', 'heads', 'head_dim', 'embed'), h * hd
    )
    if config.qkv_bias:
      self.q_bias = bias(h, 'heads')
      self.k_bias = bias(k, 'kv_heads')
      self.v_bias = bias(k, 'kv_heads')
    if config.qk_norm:
      self.q_norm = norm()
      self.k_norm = norm()

  def __call__(
    self,
    x: Float[Array, 'B T D'],
    angles: tuple[Array, Array],
    fresh_mask: Bool[Array, 'B T T'],
    context: Sequence[Part],
  ) -> tuple[Array, tuple[Array, Array]]:
    """One layer (the stacked axis was scanned away).

    Args:
      x: normed activations.
      angles: sin and cos of the tokens' positions, `[B, T, head_dim / 2]`.
      fresh_mask: which fresh tokens see which.
      context: earlier keys and values of this layer.

    Returns:
      `[B, T, D]`, and the fresh (k, v), each `[B, K, T, head_dim]`.
    """
    c = self.config
    q = jnp.einsum('btd,dnh->btnh', x, self.q[...])
    k = jnp.einsum('btd,dnh->btnh', x, self.k[...])
    v = jnp.einsum('btd,dnh->btnh', x, self.v[...])
    if c.qkv_bias:
      q = q + self.q_bias[...][None, None]
      k = k + self.k_bias[...][None, None]
      v = v + self.v_bias[...][None, None]
    if c.qk_norm:
      q = layers.rms_norm(q, self.q_norm[...], c.norm_eps)
      k = layers.rms_norm(k, self.k_norm[...], c.norm_eps)
    q, k = layers.rotate(q, *angles), layers.rotate(k, *angles)
    b, t = x.shape[:2]
    q = q.reshape(b, t, c.num_kv_heads, -1, c.head_dim)
    q = q.transpose(0, 2, 3, 1, 4)  # [B, K, G, T, hd]
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
    parts = [*context, Part(k, v, fresh_mask)]
    out = attend(q, parts, scale, c.attention_softcap)
    out = out.transpose(0, 3, 1, 2, 4).reshape(b, t, c.num_heads, c.head_dim)
    return jnp.einsum('btnh,nhd->btd', out, self.o[...]), (k, v)
