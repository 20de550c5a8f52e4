"""Attention of one new token per row, as a kernel for GPUs.

In: queries `[B, K, G, hd]`, keys and values of each row or shared by all, and
which stretch of them each row sees. Out: weighted sums of values, not yet
normalised, with what merges them with other parts (`attention.attend`). What is
*not* here: quantized caches, whole sequences.

XLA makes some ten programs of it, which write and read all logits, and reads
every row to the longest one's end. Here each key and value is read once, and
only those that a row holds (docs/performance.md).

JAX 0.11 has deprecated Pallas' Triton backend, which this is written for; with a
JAX that lacks it, decoding is XLA's (`kernels.choose_decoding`).
"""

import functools
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp
from jaxtyping import Array, Float

from restem_jax import partitioning
from restem_jax.models import layers
from restem_jax.models.cache import KV, Span

_BLOCK = 64  # keys that are worked on at a time
# Queries of a program: a matmul has so many rows at least, and at most so many
# are worth their registers.
_FEW, _MANY = 16, 64
# Programs that keep a GPU busy: eight for each of 132 multiprocessors. With
# fewer rows and heads a row's keys are split.
_PROGRAMS = 1056


class Sums(NamedTuple):
  """What a part adds, relative to its own largest logit; all f32."""

  out: Float[Array, 'B K G hd']  # of exp(logit - top) * value
  top: Float[Array, 'B K G']
  total: Float[Array, 'B K G']  # of exp(logit - top)


def attend(
  q: Float[Array, 'B K G hd'],
  kv: KV,
  span: Span,
  scale: float,
  softcap: float | None,
) -> Sums:
  """Sums over the keys that each row sees; a row may see none.

  The two matmuls run in the dtype of their operands, all else in f32.

  Args:
    q: queries.
    kv: `[B, K, S, hd]`, or of one row that all share.
    span: of each row.
    scale: of the logits.
    softcap: of the logits.
  """
  shared = kv.k.shape[0] == 1
  fn = functools.partial(
    _shared if shared else _own, scale=scale, softcap=softcap
  )
  args = (span.start, span.stop, q, kv.k, kv.v)
  if jax.sharding.get_abstract_mesh().empty:
    return fn(*args)
  rows = partitioning.spec(('batch',))
  heads = partitioning.spec(('batch', 'kv_heads'))
  held = partitioning.spec((None, 'kv_heads')) if shared else heads
  return jax.shard_map(
    fn,
    in_specs=(rows, rows, heads, held, held),
    out_specs=Sums(heads, heads, heads),  # pyright: ignore
    check_vma=False,
  )(*args)


def _own(start, stop, q, k, v, **how) -> Sums:
  """Each row has keys of its own."""
  each = lambda x: jnp.broadcast_to(x[:, None], (len(x), q.shape[2]))
  return _sums(each(start), each(stop), q, k, v, **how)


def _shared(start, stop, q, k, v, **how) -> Sums:
  """All rows' queries are those of one row."""
  b, heads, group, hd = q.shape
  each = lambda x: jnp.repeat(x, group)[None]
  one = q.swapaxes(0, 1).reshape(1, heads, b * group, hd)
  sums = _sums(each(start), each(stop), one, k, v, **how)
  return jax.tree.map(
    lambda x: x.reshape(heads, b, group, *x.shape[3:]).swapaxes(0, 1), sums
  )


def _sums(start, stop, q, k, v, *, scale, softcap) -> Sums:
  """Of queries `[R, K, Q, hd]`, each with a span: `[R, Q]`."""
  (rows, heads, queries, hd), size = q.shape, k.shape[2]
  tile = _FEW if queries <= _FEW else _MANY
  tiles, blocks = pl.cdiv(queries, tile), pl.cdiv(size, _BLOCK)
  # Keys that are many rows' are few.
  splits = min(blocks, pl.cdiv(_PROGRAMS, rows * heads)) if tiles == 1 else 1
  split = pl.cdiv(blocks, splits) * _BLOCK
  # One axis of the grid for tiles and splits: there are three at most.
  span = pl.BlockSpec((None, tile), lambda r, k, i: (r, i // splits))
  given = pl.BlockSpec(
    (None, None, tile, hd), lambda r, k, i: (r, k, i // splits, 0)
  )
  held = pl.BlockSpec((None, None, size, hd), lambda r, k, i: (r, k, 0, 0))
  part = lambda *dims: pl.BlockSpec(
    (None, None, None, tile, *dims),
    lambda r, k, i: (i % splits, r, k, i // splits, *[0] * len(dims)),
  )
  f32 = lambda *dims: jax.ShapeDtypeStruct(
    (splits, rows, heads, queries, *dims), jnp.float32
  )
  interpret = jax.default_backend() == 'cpu'  # slow: for tests
  out, top, total = pl.pallas_call(
    functools.partial(
      _kernel,
      queries=queries,
      splits=splits,
      split=split,
      scale=scale,
      softcap=softcap,
    ),
    grid=(rows, heads, tiles * splits),
    in_specs=[span, span, given, held, held],
    out_specs=[part(hd), part(), part()],
    out_shape=[f32(hd), f32(), f32()],
    compiler_params=None
    if interpret
    else triton.CompilerParams(num_warps=4, num_stages=3),
    interpret=interpret,
    name='decode_attention',
  )(start, stop, q, k, v)
  if splits == 1:
    return Sums(out[0], top[0], total[0])
  largest = top.max(0)
  share = jnp.exp(top - largest[None])
  return Sums((out * share[..., None]).sum(0), largest, (total * share).sum(0))


def _kernel(
  start_ref,  # [tile]
  stop_ref,
  q_ref,  # [tile, hd]
  k_ref,  # [size, hd]
  v_ref,
  out_ref,  # [tile, hd]
  top_ref,  # [tile]
  total_ref,
  *,
  queries,
  splits,
  split,
  scale,
  softcap,
):
  tile, hd = q_ref.shape
  number, at = pl.program_id(2) // splits, pl.program_id(2) % splits
  there = number * tile + jnp.arange(tile) < queries
  q = triton.load(q_ref, mask=there[:, None], other=0.0)
  # Of this program's keys; a query that is not there sees none.
  begin, end = at * split, at * split + split
  start = triton.load(start_ref, mask=there, other=end)
  start = jnp.maximum(start, begin)
  stop = jnp.minimum(triton.load(stop_ref, mask=there, other=0), end)
  last = stop.max()

  def body(i, sums):
    out, top, total = sums
    index = i * _BLOCK + jnp.arange(_BLOCK)
    block = pl.ds(i * _BLOCK, _BLOCK)
    held = (index < last)[:, None]
    k = triton.load(k_ref.at[block, :], mask=held, other=0.0)
    v = triton.load(v_ref.at[block, :], mask=held, other=0.0)
    x = layers.soft_cap(triton.dot(q, k.T) * scale, softcap)
    index = index[None, :]
    seen = (index >= start[:, None]) & (index < stop[:, None])
    x = jnp.where(seen, x, layers.MASKED)
    larger = jnp.maximum(top, x.max(-1))
    weights = jnp.exp(x - larger[:, None])
    share = jnp.exp(top - larger)
    out = out * share[:, None] + triton.dot(weights.astype(v.dtype), v)
    return out, larger, total * share + weights.sum(-1)

  zeros = jnp.zeros((tile,), jnp.float32)
  sums = (jnp.zeros((tile, hd), jnp.float32), zeros + layers.LOWEST, zeros)
  low = start.min() // _BLOCK
  high = jnp.maximum((last + _BLOCK - 1) // _BLOCK, low)
  out, top, total = jax.lax.fori_loop(low, high, body, sums)
  triton.store(out_ref, out, mask=there[:, None])
  triton.store(top_ref, top, mask=there)
  triton.store(total_ref, total, mask=there)
