"""Attention over parts equals attention over their union."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restem_jax.models import attention
from restem_jax.models.cache import KV, pack

B, K, G, T, HD = 2, 2, 3, 4, 5


# One program per shape, where eager calls would compile every operation.
attend = jax.jit(attention.attend, static_argnums=(2, 3))


def rand(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plain(q, k, v, mask, scale):
  """Softmax attention, written out in float64; no key seen gives zeros."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  x = np.einsum('bkgth,bksh->bkgts', q, k) * scale
  e = np.exp(x) * np.asarray(mask)[:, None, None]
  total = np.maximum(e.sum(-1, keepdims=True), 1e-300)
  return np.einsum('bkgts,bksh->bkgth', e / total, v)


@hypothesis.given(st.lists(st.integers(1, 6), min_size=1, max_size=3))
@hypothesis.settings(max_examples=10)
def test_parts_equal_their_union(sizes):
  s = sum(sizes)
  q, k, v = rand(0, B, K, G, T, HD), rand(1, B, K, s, HD), rand(2, B, K, s, HD)
  mask = rand(3, B, T, s) > 0
  parts, at = [], 0
  for n in sizes:
    cut = slice(at, at + n)
    parts.append(
      attention.Part(KV(k[:, :, cut], v[:, :, cut]), mask[:, :, cut])
    )
    at += n
  got = attend(q, parts, 0.4, None)
  np.testing.assert_allclose(got, plain(q, k, v, mask, 0.4), atol=1e-5)


def test_a_part_with_one_row_serves_all_rows():
  q = rand(0, B, K, G, T, HD)
  k, v = rand(1, 1, K, 6, HD), rand(2, 1, K, 6, HD)
  mask = rand(3, B, T, 6) > 0
  shared = attend(q, [attention.Part(KV(k, v), mask)], 1.0, None)
  repeated = [
    attention.Part(KV(jnp.repeat(k, B, 0), jnp.repeat(v, B, 0)), mask)
  ]
  want = attend(q, repeated, 1.0, None)
  np.testing.assert_allclose(shared, want, atol=1e-6)


def test_a_query_that_sees_nothing_gives_zeros():
  q = rand(0, B, K, G, T, HD)
  nothing = jnp.zeros((1, T, 3), bool)
  part = attention.Part(KV(rand(1, B, K, 3, HD), rand(2, B, K, 3, HD)), nothing)
  got = attend(q, [part], 1.0, None)
  np.testing.assert_array_equal(got, jnp.zeros_like(q))


def test_the_soft_cap_is_applied_to_the_logits():
  q = 100 * rand(0, B, K, G, T, HD)
  k, v = rand(1, B, K, 6, HD), rand(2, B, K, 6, HD)
  mask = jnp.ones((1, T, 6), bool)
  got = attend(q, [attention.Part(KV(k, v), mask)], 1.0, 2.0)
  logits = 2 * jnp.tanh(jnp.einsum('bkgth,bksh->bkgts', q, k) / 2)
  want = jnp.einsum('bkgts,bksh->bkgth', jax.nn.softmax(logits), v)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('rows', [1, B])
def test_int8_parts_equal_their_numbers(rows):
  q = rand(0, B, K, G, T, HD)
  packed = pack(KV(rand(1, rows, K, 6, HD), rand(2, rows, K, 6, HD)), jnp.int8)
  wide = KV(
    packed.k * packed.k_scale[..., None], packed.v * packed.v_scale[..., None]
  )
  mask = rand(3, B, T, 6) > 0
  got = attend(q, [attention.Part(packed, mask)], 0.4, 3.0)
  want = attend(q, [attention.Part(wide, mask)], 0.4, 3.0)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_bf16_is_close_to_f32():
  q, mask = rand(0, B, K, G, T, HD), rand(3, B, T, 6) > 0
  kv = KV(rand(1, B, K, 6, HD), rand(2, B, K, 6, HD))
  shared = KV(rand(4, 1, K, 6, HD), rand(5, 1, K, 6, HD))
  parts = [attention.Part(kv, mask), attention.Part(shared, mask)]
  want = attend(q, parts, 0.4, None)
  half = lambda x: x.astype(jnp.bfloat16)
  parts = [attention.Part(jax.tree.map(half, part.kv), mask) for part in parts]
  got = attend(half(q), parts, 0.4, None)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.05)
