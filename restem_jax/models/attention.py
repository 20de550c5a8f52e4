"""Grouped-query attention over fresh tokens and earlier context.

In: activations `[B, T, D]`, masks, one layer of context. Out: activations,
and what the caller's `store` keeps of the fresh keys and values. What is
*not* here: how they are kept (`cache`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from restem_jax.models import blockwise, kernels, layers, remat
from restem_jax.models.cache import KV, Span
from restem_jax.models.config import ModelConfig

Whole = blockwise.Causal | kernels.Kernel


class Part(NamedTuple):
  """One stretch of keys that the queries may see.

  A part with one row is shared by all rows of queries and attended as one
  matrix per kv head. The one part of a whole sequence may have its mask as an
  implementation of attention wants it (`kernels.prepare`), and a part of one
  query per row a span.
  """

  kv: KV
  mask: Bool[Array, 'B T S'] | Whole | Span  # leading axes may be 1


def fresh_mask(
  num_tokens: int,
  segment_ids: Int[Array, 'B T'] | None = None,
  seen_until: Int[Array, 'B T'] | None = None,
) -> Bool[Array, '#B T T']:
  """Which fresh tokens see which: earlier ones, and themselves.

  Args:
    num_tokens: T.
    segment_ids: they see those of their own segment only.
    seen_until: the first token that no longer sees this one.
  """
  index = jnp.arange(num_tokens, dtype=jnp.int32)
  seen = (index[:, None] >= index[None, :])[None]
  if segment_ids is not None:
    seen &= segment_ids[:, :, None] == segment_ids[:, None, :]
  if seen_until is not None:
    seen &= index[None, :, None] < seen_until[:, None, :]
  return seen


def joined(parts: Sequence[Part], implementation: str) -> Part:
  """The parts behind each other, for a kernel, which takes one stretch.

  Rows of a shared part are repeated.

  Args:
    parts: none quantized.
    implementation: as `kernels.choose` gives it, not xla.
  """
  kvs, masks = zip(*parts, strict=True)
  rows = max(len(x) for x in (*masks, *(kv.k for kv in kvs)))
  t = max(mask.shape[1] for mask in masks)
  join = lambda arrays: jnp.concatenate(
    [jnp.broadcast_to(x, (rows, *x.shape[1:])) for x in arrays], -2
  )
  kv = KV(join([kv.k for kv in kvs]), join([kv.v for kv in kvs]))
  masks = [jnp.broadcast_to(x, (rows, t, x.shape[-1])) for x in masks]
  mask = jnp.concatenate(masks, -1)
  return Part(kv, kernels.prepare(implementation, mask))


# Fresh keys and values of a layer -> the parts that are seen, and what the
# caller keeps of them.
Store = Callable[[KV], tuple[Sequence[Part], Any]]


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
  if isinstance(whole := parts[0].mask, Whole):
    (part,) = parts
    return whole.attend(q, part.kv, scale, softcap)
  sums = [
    _of_span(q, part.kv, part.mask, scale, softcap)
    for part in parts
    if isinstance(part.mask, Span)
  ]
  parts = [part for part in parts if not isinstance(part.mask, Span)]
  logits = []
  for kv, mask in parts:
    assert not isinstance(mask, Whole | Span)
    x = _logits(q, kv)
    if kv.k_scale is not None:
      x = x * _per_key(kv.k_scale)
    x = layers.soft_cap(x * scale, softcap)
    logits.append(jnp.where(_by_row(mask, kv), x, layers.MASKED))
  top = jnp.float32(layers.LOWEST)
  for x, part in zip(logits, parts, strict=True):
    top = jnp.maximum(top, _rows_first(x.max(-1), part.kv))
  total, out = jnp.float32(0), jnp.float32(0)
  for each in sums:
    top = jnp.maximum(top, each.top[..., None])
  for each in sums:
    share = jnp.exp(each.top[..., None] - top)
    total += each.total[..., None] * share
    out += each.out[..., None, :] * share[..., None]
  for x, part in zip(logits, parts, strict=True):
    weights = jnp.exp(x - _rows_first(top, part.kv)[..., None])
    total += _rows_first(weights.sum(-1), part.kv)
    if part.kv.v_scale is not None:
      weights = weights * _per_key(part.kv.v_scale)
    out += _rows_first(_values(weights.astype(q.dtype), part.kv), part.kv)
  return (out / jnp.maximum(total, 1e-30)[..., None]).astype(q.dtype)


def _of_span(q, kv: KV, span: Span, scale, softcap):
  from restem_jax.models import decoding  # loads Pallas

  return decoding.attend(q[..., 0, :], kv, span, scale, softcap)


def _is_shared(kv: KV) -> bool:
  return kv.k.shape[0] == 1


# Logits are [B, K, G, T, S], but [K, B, G, T, S] for a shared part: there its
# keys are one matrix, and all B G T queries the rows of the other. As one
# einsum over [B, K, ...] the same product takes 1.7 times as long on a CPU.


def _rows_first(x: Array, kv: KV) -> Array:
  return jnp.swapaxes(x, 0, 1) if _is_shared(kv) else x


def _by_row(mask: Array, kv: KV) -> Array:
  return mask[None, :, None] if _is_shared(kv) else mask[:, None, None]


def _per_key(scale: Float[Array, 'B K S']) -> Array:
  if scale.shape[0] == 1:
    return scale[0][:, None, None, None]
  return scale[:, :, None, None]


def _logits(q: Array, kv: KV) -> Array:
  k = kv.k.astype(q.dtype)
  if not _is_shared(kv):
    return layers.product('bkgth,bksh->bkgts', q, k)
  q = jnp.swapaxes(q, 0, 1)
  rows = q.reshape(q.shape[0], -1, q.shape[-1])
  return layers.product('kmh,ksh->kms', rows, k[0]).reshape(*q.shape[:-1], -1)


def _values(weights: Array, kv: KV) -> Array:
  v = kv.v.astype(weights.dtype)
  if not _is_shared(kv):
    return layers.product('bkgts,bksh->bkgth', weights, v)
  rows = weights.reshape(weights.shape[0], -1, weights.shape[-1])
  out = layers.product('kms,ksh->kmh', rows, v[0])
  return out.reshape(*weights.shape[:-1], -1)


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
    store: Store,
  ) -> tuple[Array, Any]:
    """One layer (without the stacked axis).

    Args:
      x: normed activations.
      angles: sin and cos of the tokens' positions, `[B, T, head_dim / 2]`.
      store: takes the fresh keys and values, `[B, K, T, head_dim]`, and
        gives them back among the earlier ones of this layer.

    Returns:
      `[B, T, D]`, and what `store` kept.
    """
    c = self.config
    q = layers.project(x, self.q)  # [B, T, H, hd]
    k = layers.project(x, self.k)
    v = layers.project(x, self.v)
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
    q, k, v = (remat.named(each, remat.QKV) for each in (q, k, v))
    scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
    parts, kept = store(KV(k, v))
    out = attend(q, parts, scale, c.attention_softcap)
    out = out.transpose(0, 3, 1, 2, 4).reshape(b, t, c.num_heads, c.head_dim)
    return layers.project(out, self.o, num_in=2), kept
