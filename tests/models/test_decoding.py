"""The kernel of decoding equals plain attention, interpreted and on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restem_jax import partitioning
from restem_jax.models import attention, decoding
from restem_jax.models.cache import KV, Span

B = 4
exactly = pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='f32 is rounded to TF32 there'
)


def operands(num_kv, group, hd, size, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  kv = KV(draw(B, num_kv, size, hd), draw(B, num_kv, size, hd))
  start = np.array([0, 3, size - 1, 7])
  stop = np.array([size, 3, size, 70])  # the second row sees nothing
  return draw(B, num_kv, group, hd), kv, start, np.minimum(stop, size)


def plain(q, kv, start, stop, softcap, dtype=jnp.float32):
  index = np.arange(kv.k.shape[2])[None]
  mask = (index >= start[:, None]) & (index < stop[:, None])
  q, kv = jax.tree.map(lambda x: x.astype(dtype), (q, kv))
  part = attention.Part(kv, jnp.asarray(mask[:, None]))
  return attention.attend(q[..., None, :], [part], 0.2, softcap)[..., 0, :]


def through(q, kv, start, stop, softcap):
  span = Span(jnp.asarray(start, jnp.int32), jnp.asarray(stop, jnp.int32))
  part = attention.Part(kv, span)
  attend = lambda q: attention.attend(q, [part], 0.2, softcap)
  return jax.jit(attend)(q[..., None, :])[..., 0, :]


@exactly
@pytest.mark.parametrize('softcap', [None, 1.5])
@pytest.mark.parametrize(
  ('num_kv', 'group', 'hd', 'size'),
  # One block, several, and one that is not full.
  [(2, 2, 16, 64), (1, 5, 32, 300), (3, 1, 16, 33)],
)
def test_equals_plain_attention(num_kv, group, hd, size, softcap):
  given = operands(num_kv, group, hd, size)
  got, want = through(*given, softcap), plain(*given, softcap)
  np.testing.assert_allclose(got, want, atol=2e-6)
  assert (np.asarray(got[1]) == 0).all()


@exactly
@pytest.mark.parametrize('group', [2, 7])  # one tile, and two
def test_keys_that_all_rows_share(monkeypatch, group):
  monkeypatch.setattr(decoding, '_MANY', 16)
  q, kv, start, stop = operands(2, group, 16, 100)
  kv = jax.tree.map(lambda x: x[:1], kv)
  got, want = (fn(q, kv, start, stop, None) for fn in (through, plain))
  np.testing.assert_allclose(got, want, atol=2e-6)


@exactly
def test_split_or_not_the_sums_are_the_same(monkeypatch):
  given = operands(2, 3, 16, 300)
  want = through(*given, None)  # five splits of one block
  monkeypatch.setattr(decoding, '_PROGRAMS', 1)
  np.testing.assert_allclose(through(*given, None), want, atol=2e-6)
  monkeypatch.setattr(decoding, '_PROGRAMS', 2 * B * 2)
  np.testing.assert_allclose(through(*given, None), want, atol=2e-6)


@exactly
@pytest.mark.parametrize('sizes', [(4, 1, 2), (2, 2, 1)])
def test_on_a_mesh(sizes):
  if jax.device_count() < np.prod(sizes):
    pytest.skip('needs more devices')
  given = operands(2, 2, 16, 80)
  want = through(*given, None)
  mesh = partitioning.make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])
  one = jax.tree.map(lambda x: x[:1], given[1])
  want_shared = through(given[0], one, *given[2:], None)
  with jax.set_mesh(mesh):
    got = through(*given, None)
    got_shared = through(given[0], one, *given[2:], None)
  np.testing.assert_allclose(got, want, atol=2e-6)
  np.testing.assert_allclose(got_shared, want_shared, atol=2e-6)


@pytest.mark.filterwarnings('ignore:The Pallas Triton backend')
@pytest.mark.parametrize('shared', [False, True])
def test_on_a_gpu(shared):
  if jax.default_backend() != 'gpu':
    pytest.skip('needs a GPU')
  q, kv, start, stop = operands(2, 20, 64, 544, jnp.bfloat16)
  if shared:
    kv = jax.tree.map(lambda x: x[:1], kv)
  got, want = (fn(q, kv, start, stop, None) for fn in (through, plain))
  np.testing.assert_allclose(
    *(np.asarray(x, np.float32) for x in (got, want)), atol=0.02
  )
