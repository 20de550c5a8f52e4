"""Keys and values of earlier tokens.

In: fresh keys and values of one layer, or prefilled ones of all. Out: what
the next tokens attend to. What is *not* here: which slot holds which rollout
(`sampling.engine`).

Every layer has arrays of its own, `[B, K, S, head_dim]`: an append is in
place, and a step neither slices nor stacks what it reads. A cache is cut along
S into segments, so that a step reads only those that hold something: its cost
follows the present lengths, and no longer cache has to be copied to.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from restem_jax.models.config import ModelConfig


class KV(NamedTuple):
  """Keys and values of one layer; int8 ones with a scale per token and head."""

  k: Float[Array, 'B K S hd']
  v: Float[Array, 'B K S hd']
  k_scale: Float[Array, 'B K S'] | None = None
  v_scale: Float[Array, 'B K S'] | None = None


class Context(NamedTuple):
  """Earlier tokens that are only read; one row serves all rows of a batch."""

  layers: tuple[KV, ...]
  positions: Int[Array, '#B S']
  seen: Bool[Array, '#B S']


class Span(NamedTuple):
  """Which keys each row sees: those from `start` to before `stop`."""

  start: Int[Array, ' B']
  stop: Int[Array, ' B']


class Cache(NamedTuple):
  """What the slots hold: tokens at positions start..start + length - 1."""

  segments: tuple[tuple[KV, ...], ...]  # [segment][layer]
  start: Int[Array, ' B']
  length: Int[Array, ' B']


def pack(kv: KV, dtype: Any) -> KV:
  """Float keys and values in the cache's dtype; int8: x = round(x / scale)."""
  if dtype != jnp.int8:
    return jax.tree.map(lambda x: x.astype(dtype), kv)
  (k, k_scale), (v, v_scale) = _quantize(kv.k), _quantize(kv.v)
  return KV(k, v, k_scale, v_scale)


def _quantize(x: Array) -> tuple[Array, Array]:
  x = x.astype(jnp.float32)
  scale = jnp.maximum(jnp.abs(x).max(-1), 1e-30) / 127
  return jnp.round(x / scale[..., None]).astype(jnp.int8), scale


def segment_lens(longest: int, first: int = 128) -> tuple[int, ...]:
  """`first`, `first`, 2 `first`, 4 `first`, ...: together at least `longest`.

  The last is cut to what is needed. A read of the first n segments covers at
  most twice what it must, and n takes few values.
  """
  lens: list[int] = []
  while (left := longest - sum(lens)) > 0:
    lens.append(min(left, sum(lens) or first))
  return tuple(lens)


def empty(
  config: ModelConfig, num_slots: int, lens: Sequence[int], dtype: Any
) -> Cache:
  """A cache of zeros and length 0, with segments of `lens` tokens."""

  def zeros(tokens: int) -> KV:
    shape = (num_slots, config.num_kv_heads, tokens, config.head_dim)
    kv = KV(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
    if dtype != jnp.int8:
      return kv
    scale = lambda: jnp.zeros(shape[:3], jnp.float32)
    return kv._replace(k_scale=scale(), v_scale=scale())

  none = lambda: jnp.zeros((num_slots,), jnp.int32)
  layers = range(config.num_layers)
  segments = tuple(tuple(zeros(n) for _ in layers) for n in lens)
  return Cache(segments, none(), none())


def _lens(cache: Cache) -> list[int]:
  return [segment[0].k.shape[2] for segment in cache.segments]


def append(
  segments: Sequence[KV], length: Int[Array, ' B'], k: Array, v: Array
) -> tuple[KV, ...]:
  """One layer's segments with one token per row behind its length.

  Args:
    segments: those in use. They must hold one more token than the longest row
      that matters; what falls beyond them is dropped.
    length: tokens held by each row.
    k: `[B, K, 1, head_dim]`.
    v: as `k`.
  """
  # With every index but those of head_dim: were heads a slice, TPUs would copy
  # the cache into a layout where they lie inside, and back.
  rows, heads = jnp.arange(k.shape[0])[:, None], jnp.arange(k.shape[1])[None]
  out, offset = [], 0
  for kv in segments:
    size = kv.k.shape[2]
    at = length - offset
    at = jnp.where((at >= 0) & (at < size), at, size)  # beyond it: dropped
    new = pack(KV(k, v), kv.k.dtype)
    put = lambda old, x, at=at[:, None]: old.at[rows, heads, at].set(
      x[:, :, 0], mode='drop', unique_indices=True
    )
    out.append(jax.tree.map(put, kv, new))
    offset += size
  return tuple(out)


def views(
  cache: Cache, num_segments: int
) -> list[tuple[Int[Array, 'B S'], Bool[Array, 'B S']]]:
  """(positions, seen) of each segment's keys, for the token being appended."""
  out, offset = [], 0
  for size in _lens(cache)[:num_segments]:
    at = offset + jnp.arange(size, dtype=jnp.int32)[None]
    out.append((cache.start[:, None] + at, at <= cache.length[:, None]))
    offset += size
  return out


def spans(cache: Cache, num_segments: int, window: int) -> list[Span]:
  """What the token being appended sees of each segment.

  Args:
    cache: before the token is appended.
    num_segments: as `views`.
    window: how many tokens see one, itself included; 0: all.
  """
  out, offset = [], 0
  first = cache.length + 1 - window if window else jnp.zeros_like(cache.length)
  for size in _lens(cache)[:num_segments]:
    cut = lambda x, at=offset, size=size: jnp.clip(x - at, 0, size)
    out.append(Span(cut(first), cut(cache.length + 1)))
    offset += size
  return out


def context_span(
  context: Context, positions: Int[Array, ' B'], window: int
) -> Span:
  """What tokens at `positions` see of a context, one stretch for each row.

  Args:
    context: what is seen of it lies side by side.
    positions: of the rows' tokens.
    window: as in `spans`.
  """
  start = jnp.argmax(context.seen, -1).astype(jnp.int32)
  stop = start + context.seen.sum(-1, dtype=jnp.int32)
  if window:
    start = jnp.minimum(start + jnp.maximum(positions + 1 - window, 0), stop)
  return Span(start, stop)


def insert(
  cache: Cache,
  layers: Sequence[KV],
  rows: Int[Array, ' R'],
  slots: Int[Array, ' R'],
  start: Int[Array, ' R'],
  length: Int[Array, ' R'],
) -> Cache:
  """Puts prefilled prompts into slots.

  Args:
    cache: the slots' cache.
    layers: float keys and values of every layer, `[P, K, T, head_dim]`.
    rows: which of the P prompts.
    slots: where to; numbers >= B are dropped (padding rows).
    start: position of the first of the T tokens.
    length: how many of the T tokens count.
  """
  offset, segments = 0, []
  for segment in cache.segments:
    size = segment[0].k.shape[2]
    end = min(offset + size, layers[0].k.shape[2])
    if end > offset:
      segment = tuple(
        _insert(
          old,
          jax.tree.map(lambda x, a=offset, b=end: x[rows, :, a:b], kv),
          slots,
        )
        for old, kv in zip(segment, layers, strict=True)
      )
    segments.append(segment)
    offset += size
  put = lambda old, new: old.at[slots].set(new, mode='drop')
  return Cache(
    tuple(segments), put(cache.start, start), put(cache.length, length)
  )


def _insert(held: KV, new: KV, slots: Array) -> KV:
  put = lambda old, x: old.at[slots, :, : x.shape[2]].set(x, mode='drop')
  return jax.tree.map(put, held, pack(new, held.k.dtype))


def num_bytes(
  config: ModelConfig, num_slots: int, num_tokens: int, dtype: Any
) -> int:
  """Bytes of a cache's keys and values, all layers."""
  shapes = jax.eval_shape(
    lambda: empty(config, num_slots, (num_tokens,), dtype).segments
  )
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
