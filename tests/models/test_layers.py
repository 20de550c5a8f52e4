"""Norms, rotary angles and the MLP, by hand."""

import itertools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restem_jax.models import layers
from restem_jax.models.config import ModelConfig, RopeScaling


def test_rms_norm_by_hand():
  # rms of (3, 4) is sqrt(12.5).
  got = layers.rms_norm(jnp.array([[3.0, 4.0]]), jnp.array([1.0, 2.0]), 0.0)
  np.testing.assert_allclose(got, [[0.848528, 2.262742]], rtol=1e-5)


def test_rms_norm_keeps_the_dtype_and_sums_in_f32():
  x = jnp.full((1, 4096), 0.1, jnp.bfloat16)
  got = layers.rms_norm(x, jnp.ones(4096), 1e-6)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(got, np.float32), 1.0, atol=4e-3)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  ('num_in', 'shape'),
  [(1, (6, 10)), (1, (10, 6)), (1, (6, 2, 3)), (2, (2, 3, 6)), (2, (4, 5, 6))],
)
def test_a_linear_layer_and_its_gradients(dtype, num_in, shape):
  """As those of tensordot."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  x, w = draw(2, 3, *shape[:num_in]), draw(*shape)
  weight = draw(2, 3, *shape[num_in:])

  def both(linear):
    fn = lambda x, w: (linear(x, w, num_in) * weight).astype(jnp.float32).sum()
    out = linear(x, w, num_in)
    return out, *jax.jit(jax.grad(fn, argnums=(0, 1)))(x, w)

  for a, b in zip(both(layers.linear), both(jnp.tensordot), strict=True):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.1
    np.testing.assert_allclose(
      a.astype(jnp.float32), b.astype(jnp.float32), atol=tolerance
    )


def test_soft_cap():
  got = layers.soft_cap(jnp.array([0.0, 1e6, -1e6]), 30.0)
  np.testing.assert_allclose(got, [0, 30, -30])
  x = jnp.array([123.0])
  assert layers.soft_cap(x, None) is x


def test_rotation_depends_on_the_distance_only():
  freqs = layers.rope_frequencies(8, 10_000.0, None)
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 8))

  def product(i, j):
    a = layers.rope_angles(jnp.array([[i]]), freqs)
    b = layers.rope_angles(jnp.array([[j]]), freqs)
    return (layers.rotate(q, *a) * layers.rotate(k, *b)).sum()

  np.testing.assert_allclose(product(7, 3), product(104, 100), rtol=1e-4)
  assert abs(product(7, 3) - product(7, 4)) > 1e-3


def test_a_quarter_turn_by_hand():
  angle = jnp.array([[[jnp.pi / 2]]])
  x = jnp.array([[[1.0, 2.0]]])  # the pair (1, 2) turns to (-2, 1)
  got = layers.rotate(x, jnp.sin(angle), jnp.cos(angle))
  np.testing.assert_allclose(got, [[[-2.0, 1.0]]], atol=1e-6)


def test_linear_scaling_stretches_positions():
  plain = layers.rope_frequencies(8, 100.0, None)
  scaled = layers.rope_frequencies(8, 100.0, RopeScaling(factor=4.0))
  np.testing.assert_allclose(scaled * 4, plain)


def test_llama3_scaling_keeps_high_and_divides_low_frequencies():
  scaling = RopeScaling(
    kind='llama3',
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_len=8192,
  )
  plain = np.asarray(layers.rope_frequencies(128, 500_000.0, None))
  ratio = np.asarray(layers.rope_frequencies(128, 500_000.0, scaling)) / plain
  turns = 8192 * plain / (2 * np.pi)
  np.testing.assert_allclose(ratio[turns > 4], 1.0, rtol=1e-5)
  np.testing.assert_allclose(ratio[turns < 1], 1 / 8, rtol=1e-5)
  between = ratio[(turns > 1) & (turns < 4)]
  assert len(between) and ((between > 1 / 8) & (between < 1)).all()


def test_mlp_by_hand():
  config = ModelConfig(
    vocab_size=2,
    num_layers=1,
    embed_dim=2,
    mlp_dim=2,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
  )
  mlp = layers.Mlp(config, rngs=nnx.Rngs(0))
  # One layer's slice of the stack, as the scan hands it over.
  mlp.gate.set_value(jnp.eye(2))
  mlp.up.set_value(2 * jnp.eye(2))
  mlp.down.set_value(jnp.ones((2, 2)))
  x = jnp.array([[[1.0, -1.0]]])
  want = jax.nn.silu(1.0) * 2 + jax.nn.silu(-1.0) * -2
  np.testing.assert_allclose(mlp(x), [[[want, want]]], rtol=1e-6)


def turn(array, turned):
  return array.mT if turned else array


@pytest.mark.parametrize(
  'formula',
  [
    'bkgth,bksh->bkgts',
    'bkgts,bksh->bkgth',
    'bkgth,bkgts->bkhs',
    'kmh,ksh->kms',
    'kms,ksh->kmh',
  ],
)
def test_products_in_bf16(formula):
  """Whatever the sizes are, and however operands and result are transposed.

  XLA has bf16 products of some forms only, and may find so when it runs them.
  """
  x, y = formula.split('->')[0].split(',')
  rng = np.random.default_rng(4)
  for transposed in itertools.product([False, True], repeat=3):
    size = dict(zip('bkgtsmh', rng.choice([1, 2, 3, 8, 20], 7), strict=True))
    a, b = (
      jnp.asarray(rng.normal(size=[size[i] for i in names]), jnp.bfloat16)
      for names in (x, y)
    )

    @jax.jit
    def run(a, b, transposed=transposed):
      a, b = turn(a, transposed[0]), turn(b, transposed[1])
      return turn(layers.product(formula, a, b), transposed[2])

    got = run(turn(a, transposed[0]), turn(b, transposed[1]))
    assert got.dtype == jnp.float32
    wide = [np.asarray(each, np.float64) for each in (a, b)]
    want = np.einsum(formula, *wide)
    np.testing.assert_allclose(
      turn(got, transposed[2]), want, rtol=1e-5, atol=1e-4
    )


def test_apart_changes_nothing_but_what_tpus_fuse():
  x = jax.random.normal(jax.random.key(0), (3, 4))
  loss = lambda fn: lambda x: (jnp.sin(fn(x)) ** 2).sum()
  grad = jax.jit(jax.grad(loss(layers.apart)))
  np.testing.assert_array_equal(layers.apart(x), x)
  np.testing.assert_array_equal(
    grad(x), jax.jit(jax.grad(loss(lambda x: x)))(x)
  )
  for platform in ('cpu', 'tpu', 'cuda'):
    lowered = grad.trace(x).lower(lowering_platforms=(platform,))
    assert ('barrier' in lowered.as_text()) == (platform == 'tpu')
