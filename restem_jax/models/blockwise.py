"""Attention over a whole sequence, in blocks of queries.

In: queries, keys and values of one layer, and who sees whom, which is causal.
Out: what `attention.attend` gives. What is *not* here: the projections around
it, earlier context, caches (`attention`).

Keys behind a block's last query are never touched, which is half of all
pairs, and no array is as large as `[T, T]` per head: the backward pass
computes a block's weights again from the logarithm of their sum, as in
arXiv 2205.14135 §3.1 and appendix B.4. Blocks are unrolled: their sizes
differ.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from restem_jax.models import layers, remat
from restem_jax.models.cache import KV

# So many at most: each costs time to compile.
_NUM_BLOCKS = 16
_STEP = 64  # tokens; a block has a multiple of it


class Causal(NamedTuple):
  """Which tokens see which, never a later one: what a `Part` has as a mask.

  Attributes:
    seen: the first axis may be 1.
    size: queries of a block; None: a sixteenth of them, at least 64.
  """

  seen: Bool[Array, 'B T T']
  size: int | None = None

  def attend(
    self,
    q: Float[Array, 'B K G T hd'],
    kv: KV,
    scale: float,
    softcap: float | None,
  ) -> Float[Array, 'B K G T hd']:
    """As `attention.attend`, of one part."""
    t = q.shape[-2]
    size = self.size or -(-t // (_NUM_BLOCKS * _STEP)) * _STEP
    return _attend(q, kv.k, kv.v, self.seen, scale, softcap, size)


def _blocks(t: int, size: int) -> list[tuple[slice, slice]]:
  """Queries, and the keys that are not behind all of them."""
  ends = [min(at + size, t) for at in range(0, t, size)]
  return [
    (slice(end - 1 - (end - 1) % size, end), slice(0, end)) for end in ends
  ]


def _logits(q, k, seen, scale, softcap) -> tuple[Array, Array]:
  """f32 logits `[B, K, G, T, S]`: as they are capped, and masked as well."""
  x = layers.product('bkgth,bksh->bkgts', q, k) * scale
  x = layers.soft_cap(x, softcap)
  return x, jnp.where(seen[:, None, None], x, layers.MASKED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _attend(q, k, v, seen, scale, softcap, size):
  return _forward(q, k, v, seen, scale, softcap, size)[0]


def _forward(q, k, v, seen, scale, softcap, size):
  outs, log_sums = [], []
  for rows, keys in _blocks(q.shape[-2], size):
    _, x = _logits(
      q[..., rows, :], k[:, :, keys], seen[:, rows, keys], scale, softcap
    )
    top = jnp.maximum(x.max(-1, keepdims=True), layers.LOWEST)
    weights = jnp.exp(x - top)
    total = jnp.maximum(weights.sum(-1, keepdims=True), 1e-30)
    out = layers.product(
      'bkgts,bksh->bkgth', weights.astype(q.dtype), v[:, :, keys]
    )
    outs.append((out / total).astype(q.dtype))
    log_sums.append(top + jnp.log(total))
  # By these names a rematerialised layer may keep them.
  out = remat.named(jnp.concatenate(outs, -2), remat.ATTENTION)
  log_sum = remat.named(jnp.concatenate(log_sums, -2), remat.ATTENTION)
  return out, (q, k, v, seen, out, log_sum)


def _backward(scale, softcap, size, kept, grad):
  q, k, v, seen, out, log_sum = kept
  # Of the sum over keys of weight * d weight, which a softmax subtracts.
  wide = lambda x: x.astype(jnp.float32)
  mean = (wide(grad) * wide(out)).sum(-1, keepdims=True)
  # Transposed, [B, K, hd, S]: else a CPU transposes all pairs for them.
  dq, (dk, dv) = [], (jnp.zeros_like(wide(x).mT) for x in (k, v))
  for rows, keys in _blocks(q.shape[-2], size):
    q_rows, grad_rows = q[..., rows, :], grad[..., rows, :]
    k_keys, v_keys = k[:, :, keys], v[:, :, keys]
    capped, x = _logits(q_rows, k_keys, seen[:, rows, keys], scale, softcap)
    weights = jnp.exp(x - log_sum[..., rows, :])
    dv = dv.at[..., keys].add(
      layers.product('bkgth,bkgts->bkhs', grad_rows, weights.astype(q.dtype))
    )
    dx = layers.product('bkgth,bksh->bkgts', grad_rows, v_keys)
    dx = weights * (dx - mean[..., rows, :]) * scale
    if softcap is not None:
      dx = dx * (1 - (capped / softcap) ** 2)
    dx = dx.astype(q.dtype)
    dq.append(layers.product('bkgts,bksh->bkgth', dx, k_keys))
    dk = dk.at[..., keys].add(layers.product('bkgth,bkgts->bkhs', q_rows, dx))
  dq = jnp.concatenate(dq, -2)
  return (*(x.astype(q.dtype) for x in (dq, dk.mT, dv.mT)), None)


_attend.defvjp(_forward, _backward)
