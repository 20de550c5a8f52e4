"""Blocks of queries give what plain attention over all pairs gives."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restem_jax.models import attention, blockwise
from restem_jax.models.cache import KV

B, K, G, T, HD = 2, 2, 3, 10, 4


def rand(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def causal(rows):
  """Some pairs, none with a later key; one query sees nothing at all."""
  seen = np.tril(rand(3, rows, T, T) > -0.5)
  seen[:, 3] = False
  return seen


@pytest.fixture(scope='module', params=[None, 0.7], ids=['plain', 'capped'])
def softcap(request):
  return request.param


@pytest.mark.parametrize('rows', [1, B])
# Blocks that divide T, that do not, that are one, and single queries.
@pytest.mark.parametrize('size', [5, 1, *cases.further(4, 64)])
def test_outputs_and_gradients_equal_plain_attention(rows, size, softcap):
  q, k, v = rand(0, B, K, G, T, HD), rand(1, B, K, T, HD), rand(2, B, K, T, HD)
  seen, weight = causal(rows), rand(4, B, K, G, T, HD)

  def both(mask):
    def fn(q, k, v):
      part = attention.Part(KV(k, v), mask)
      out = attention.attend(q, [part], 0.6, softcap)
      return (out * weight).sum(), out

    grad = jax.value_and_grad(fn, argnums=(0, 1, 2), has_aux=True)
    (_, out), grads = jax.jit(grad)(q, k, v)
    return out, *grads

  got, want = both(blockwise.Causal(seen, size)), both(jnp.asarray(seen))
  assert np.abs(want[0]).max() > 0.1 and not want[0][..., 3, :].any()
  for a, b in zip(got, want, strict=True):
    assert np.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_later_keys_are_not_touched():
  """Half of the pairs: a key that is not a number does no harm before it."""
  q, k, v = rand(0, B, K, G, T, HD), rand(1, B, K, T, HD), rand(2, B, K, T, HD)
  seen = np.tril(np.ones((1, T, T), bool))
  k[:, :, 5:], v[:, :, 5:] = np.nan, np.nan
  out = blockwise.Causal(seen, 5).attend(q, KV(k, v), 1.0, None)
  assert np.isfinite(out[..., :5, :]).all() and np.isnan(out[..., 5:, :]).all()


def test_no_array_has_all_pairs():
  t = 512
  q = jax.ShapeDtypeStruct((1, 1, 1, t, HD), jnp.float32)
  k = jax.ShapeDtypeStruct((1, 1, t, HD), jnp.float32)

  def loss(q, k):
    seen = jnp.ones((1, t, t), bool)
    return blockwise.Causal(seen).attend(q, KV(k, k), 1.0, None).sum()

  jaxpr = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(q, k))
  assert 'f32[1,1,1,64,512]' in jaxpr
  assert 'f32[1,1,1,512,512]' not in jaxpr


@pytest.mark.parametrize(
  ('t', 'blocks'), [(1, 1), (64, 1), (65, 2), (1024, 16), (1025, 9), (8192, 16)]
)
def test_the_number_of_blocks(t, blocks):
  """Each costs time to compile."""
  q = jax.ShapeDtypeStruct((1, 1, 1, t, HD), jnp.float32)
  k = jax.ShapeDtypeStruct((1, 1, t, HD), jnp.float32)
  seen = jax.ShapeDtypeStruct((1, t, t), jnp.bool_)
  attend = lambda q, k, seen: blockwise.Causal(seen).attend(
    q, KV(k, k), 1.0, None
  )
  assert str(jax.make_jaxpr(attend)(q, k, seen)).count(' exp ') == blocks


def test_bfloat16_stays_so():
  q, k, v = rand(0, B, K, G, T, HD), rand(1, B, K, T, HD), rand(2, B, K, T, HD)
  low = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
  seen = causal(1)

  def fn(q, k, v):
    out = blockwise.Causal(seen, 4).attend(q, KV(k, v), 0.6, None)
    return out.astype(jnp.float32).sum(), out

  grad = jax.jit(jax.grad(fn, argnums=(0, 1, 2), has_aux=True))
  (grads, out), (want, exact) = grad(*low), grad(q, k, v)
  assert {x.dtype for x in (*grads, out)} == {jnp.dtype(jnp.bfloat16)}
  np.testing.assert_allclose(out.astype(np.float32), exact, atol=0.05)
  for a, b in zip(grads, want, strict=True):
    np.testing.assert_allclose(a.astype(np.float32), b, atol=0.1)
