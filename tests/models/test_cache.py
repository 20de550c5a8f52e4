"""Tokens land where their position says."""

import jax.numpy as jnp
import numpy as np

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
  """[L, R, K, T, hd] whose entries name row and token: values[r][t]."""
  x = jnp.asarray(values, jnp.float32)[None, :, None, :, None]
  return jnp.broadcast_to(x, (2, x.shape[1], 1, x.shape[3], 2))


def seen(context):
  """Per slot, the values of its valid tokens."""
  grid = np.asarray(context.k[1, :, 0, :, 1])
  np.testing.assert_array_equal(context.k, context.v)
  return [row[:n].tolist() for row, n in zip(grid, context.length, strict=True)]


def test_insert_and_append():
  context = cache.empty(CONFIG, 3, 5, jnp.float32)
  kv = tokens([[1, 2, 0], [5, 6, 7]])
  context = cache.insert(
    context, kv, kv, jnp.array([2, 0]), 0, jnp.array([2, 3])
  )
  assert seen(context) == [[5, 6, 7], [], [1, 2]]
  kv = tokens([[8], [9], [3]])
  context = cache.append(context, kv, kv, jnp.array([True, False, True]))
  assert seen(context) == [[5, 6, 7, 8], [], [1, 2, 3]]


def test_a_prefix_serves_several_slots():
  context = cache.empty(CONFIG, 3, 5, jnp.float32)
  slots, length = jnp.array([1, 2, 3]), jnp.array([3, 4, 0])
  prefix = tokens([[1, 2]])
  context = cache.insert(context, prefix, prefix, slots, 0, length)
  kv = tokens([[3, 0, 0], [4, 5, 0], [6, 6, 6]])
  # Row 3 has no slot (3 is beyond the last), token 4 + 2 no place.
  context = cache.insert(context, kv, kv, slots, 2, length)
  assert seen(context) == [[], [1, 2, 3], [1, 2, 4, 5]]


def test_num_bytes():
  # 2 layers, 3 slots, 1 head, 5 tokens, 2 dims, keys and values, 2 bytes.
  got = cache.num_bytes(CONFIG, 3, 5, jnp.bfloat16)
  assert got == 2 * 3 * 1 * 5 * 2 * 2 * 2
