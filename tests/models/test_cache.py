"""Tokens land where their position says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restem_jax.models import cache
from restem_jax.models.config import ModelConfig

CONFIG = ModelConfig(
  vocab_size=2,
  num_layers=2,
  embed_dim=4,
  mlp_dim=4,
  num_heads=2,
  num_kv_heads=1,
  head_dim=2,
)


def tokens(values):
  """[R, K, T, hd] whose entries name row and token: values[r][t]."""
  x = jnp.asarray(values, jnp.float32)[:, None, :, None]
  return jnp.broadcast_to(x, (*x.shape[:3], 2))


def layers(values):
  """The same in both layers; the second one's are larger by 100."""
  kv = cache.KV(tokens(values), tokens(values) + 0.5)
  return [kv, jax.tree.map(lambda x: x + 100, kv)]


def seen(held, layer=1):
  """Per slot, the values of its tokens, read over the segments."""
  k, v = (
    np.concatenate([getattr(s[layer], x)[:, 0, :, 1] for s in held.segments], 1)
    for x in 'kv'
  )
  rows = [row[:n] for row, n in zip(k, held.length, strict=True)]
  for keys, values in zip(rows, v, strict=True):
    np.testing.assert_array_equal(keys + 0.5, values[: len(keys)])
  return [row.tolist() for row in rows]


def ints(*values):
  return jnp.array(values, jnp.int32)


@pytest.mark.parametrize('lens', [(8,), (2, 2, 4), (3, 5)])
def test_insert_and_append(lens):
  held = cache.empty(CONFIG, 3, lens, jnp.float32)
  held = cache.insert(
    held,
    layers([[1, 2, 0], [5, 6, 7]]),
    rows=ints(0, 1, 1),
    slots=ints(2, 0, 3),  # there is no slot 3
    start=ints(4, 0, 0),
    length=ints(2, 3, 3),
  )
  assert seen(held) == [[105, 106, 107], [], [101, 102]]
  assert held.start.tolist() == [0, 0, 4]
  new = tokens([[8], [9], [3]])
  both = [
    cache.append([s[i] for s in held.segments], held.length, new, new + 0.5)
    for i in range(2)
  ]
  segments = tuple(zip(*both, strict=True))
  held = held._replace(segments=segments, length=held.length + ints(1, 0, 1))
  assert seen(held) == [[105, 106, 107, 8], [], [101, 102, 3]]
  assert seen(held, layer=0) == [[5, 6, 7, 8], [], [1, 2, 3]]


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.int8])
def test_each_head_appends_its_own(dtype):
  config = dataclasses.replace(CONFIG, num_heads=3, num_kv_heads=3)
  held = cache.empty(config, 2, (2, 2), dtype)
  k = jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 1, 2)
  layer = [segment[0] for segment in held.segments]
  used = cache.append(layer, ints(1, 2), k, 2 * k)
  packed = cache.pack(cache.KV(k, 2 * k), dtype)
  whole = jax.tree.map(lambda *x: jnp.concatenate(x, 2), *used)
  for got, new in zip(
    jax.tree.leaves(whole), jax.tree.leaves(packed), strict=True
  ):
    # Row 0 goes to the first segment's end, row 1 to the second one's start.
    want = jnp.zeros_like(got).at[0, :, 1].set(new[0, :, 0])
    want = want.at[1, :, 2].set(new[1, :, 0])
    np.testing.assert_array_equal(got, want)


def test_what_is_beyond_the_segments_in_use_is_dropped():
  held = cache.empty(CONFIG, 2, (2, 2), jnp.float32)
  held = held._replace(length=ints(1, 3))
  new = tokens([[8], [9]])
  used = cache.append(held.segments[0][:1], held.length, new, new)
  assert len(used) == 1
  assert used[0].k[:, 0, :, 0].tolist() == [[0, 8], [0, 0]]


def test_views_tell_what_the_appended_token_sees():
  held = cache.empty(CONFIG, 2, (2, 2), jnp.float32)
  held = held._replace(start=ints(5, 0), length=ints(0, 2))
  (at, mask), (at2, mask2) = cache.views(held, 2)
  assert at.tolist() == [[5, 6], [0, 1]]
  assert at2.tolist() == [[7, 8], [2, 3]]
  assert mask.tolist() == [[True, False], [True, True]]
  assert mask2.tolist() == [[False, False], [True, False]]


def test_segment_lens():
  assert cache.segment_lens(100, 128) == (100,)
  assert cache.segment_lens(300, 128) == (128, 128, 44)
  assert cache.segment_lens(1024, 128) == (128, 128, 256, 512)


def test_int8_keeps_each_token_to_half_a_step_of_its_largest():
  rng = np.random.default_rng(0)
  kv = cache.KV(*rng.normal(size=(2, 3, 2, 5, 16)).astype(np.float32))
  packed = cache.pack(kv, jnp.int8)
  for x, q, scale in (
    (kv.k, packed.k, packed.k_scale),
    (kv.v, packed.v, packed.v_scale),
  ):
    assert q.dtype == jnp.int8
    np.testing.assert_allclose(scale, np.abs(x).max(-1) / 127, rtol=1e-6)
    error = np.abs(q * scale[..., None] - x)
    assert (error <= scale[..., None] / 2 + 1e-6).all()
  zeros = cache.pack(jax.tree.map(lambda x: x * 0, kv), jnp.int8)
  np.testing.assert_array_equal(zeros.k, 0)


def test_num_bytes():
  # 2 layers, 3 slots, 1 head, 5 tokens, keys and values: 2 dims of 2 bytes,
  # or 2 of 1 and a scale of 4.
  assert cache.num_bytes(CONFIG, 3, 5, jnp.bfloat16) == 60 * 4
  assert cache.num_bytes(CONFIG, 3, 5, jnp.int8) == 60 * 6


@pytest.mark.parametrize('window', [0, 1, 3, 6, 50])
def test_spans_are_what_the_masks_say(window):
  held = cache.empty(CONFIG, 4, (3, 3, 6), jnp.float32)
  held = held._replace(start=ints(5, 0, 2, 2), length=ints(0, 3, 5, 11))
  position = held.start + held.length
  near = lambda at: (position[:, None] - at < window) if window else True
  for (at, seen), span in zip(
    cache.views(held, 3), cache.spans(held, 3, window), strict=True
  ):
    index = jnp.arange(seen.shape[1])[None]
    within = (index >= span.start[:, None]) & (index < span.stop[:, None])
    np.testing.assert_array_equal(within, seen & near(at))
  # Two prefixes of 3 and 4 tokens; the last row has none.
  number = jnp.array([[1, 1, 1, 2, 2, 2, 2]])
  at = jnp.array([[0, 1, 2, 0, 1, 2, 3]])
  seen = number == ints(1, 2, 2, -1)[:, None]
  span = cache.context_span(cache.Context((), at, seen), position, window)
  index = jnp.arange(7)[None]
  within = (index >= span.start[:, None]) & (index < span.stop[:, None])
  np.testing.assert_array_equal(within, seen & near(at))
