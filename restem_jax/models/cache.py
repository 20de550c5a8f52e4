"""Keys and values of earlier tokens.

In: keys and values that a forward pass returned. Out: the context that the
next pass attends to. What is *not* here: which slot holds which rollout
(`sampling.engine`).

Layout `[L, B, K, S, head_dim]`: the two batch axes of the attention matmuls
(rows and kv heads) lead, so that no backend has to transpose the cache.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from restem_jax.models.config import ModelConfig


class Context(NamedTuple):
  """A part of what a row may attend to: positions 0..length-1."""

  k: Float[Array, 'L B K S hd']
  v: Float[Array, 'L B K S hd']
  length: Int[Array, ' B']  # valid tokens; index in S = position


def empty(
  config: ModelConfig, num_slots: int, max_len: int, dtype: jnp.dtype
) -> Context:
  """A context of zeros and length 0, `S = max_len`."""
  shape = (
    config.num_layers,
    num_slots,
    config.num_kv_heads,
    max_len,
    config.head_dim,
  )
  return Context(
    jnp.zeros(shape, dtype),
    jnp.zeros(shape, dtype),
    jnp.zeros((num_slots,), jnp.int32),
  )


def append(context: Context, k: Array, v: Array, active: Array) -> Context:
  """Writes one token per row behind its length; inactive rows stay.

  Args:
    context: `S` must exceed the length of every active row.
    k: `[L, B, K, 1, head_dim]`, as a forward pass of one token returns it.
    v: as `k`.
    active: `[B]` bool. Inactive rows are written in place beyond their
      length, which no one reads: cheaper than a select over the cache.
  """
  rows = jnp.arange(context.length.shape[0])
  at = jnp.minimum(context.length, context.k.shape[3] - 1)

  def write(cache, new):
    # The indexed axes 1 and 3 are apart, so their dimension comes first.
    new = jnp.moveaxis(new[:, :, :, 0], 1, 0).astype(cache.dtype)
    return cache.at[:, rows, :, at].set(new, unique_indices=True)

  return Context(
    write(context.k, k),
    write(context.v, v),
    context.length + active.astype(jnp.int32),
  )


def insert(
  context: Context,
  k: Array,
  v: Array,
  slots: Array,
  start: Array | int,
  length: Array,
) -> Context:
  """Puts prefilled tokens into slots.

  Args:
    context: the slots' cache.
    k: `[L, R, K, T, head_dim]`, one row per slot to fill, or one for all.
    v: as `k`.
    slots: `[R]` slot numbers; numbers >= B are dropped (padding rows).
    start: position of the first of the T tokens; what falls beyond S is
      dropped.
    length: `[R]` new lengths of the slots.
  """
  at = start + jnp.arange(k.shape[3])

  def write(cache, new):
    # The indexed axes 1 and 3 are apart, so [R, T] comes first.
    new = jnp.transpose(new, (1, 3, 0, 2, 4)).astype(cache.dtype)
    return cache.at[:, slots[:, None], :, at[None]].set(new, mode='drop')

  return Context(
    write(context.k, k),
    write(context.v, v),
    context.length.at[slots].set(length, mode='drop'),
  )


def num_bytes(
  config: ModelConfig, num_slots: int, max_len: int, dtype: jnp.dtype
) -> int:
  """Bytes of `empty(...)`'s keys and values."""
  shapes = jax.eval_shape(lambda: empty(config, num_slots, max_len, dtype))
  return sum(x.size * x.dtype.itemsize for x in (shapes.k, shapes.v))
