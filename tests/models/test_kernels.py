"""Every implementation of attention equals the plain one."""

import dataclasses
import functools

import cases
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from restem_jax import partitioning
from restem_jax.models import attention, kernels
from restem_jax.models.cache import KV
from restem_jax.models.config import ModelConfig
from restem_jax.models.splash import Splash

B, T = 2, 384  # tokens: one block, or three of 128
CONFIG = ModelConfig(**networks.SMALL)


def packed_rows(num_rows=B, num_tokens=T):
  """Five pieces a row, three of which see the first, one more the third.

  The last one is padding, which sees itself.
  """
  rng = np.random.default_rng(0)
  seen_until = np.tile(np.arange(1, num_tokens + 1), (num_rows, 1))
  positions = np.zeros_like(seen_until)
  for row in range(num_rows):
    at = rng.choice(np.arange(8, num_tokens - 8), 5, replace=False)
    a, b, c, d, e = np.sort(at)
    for start, end, until, first in (
      (0, a, d, 0),
      (a, b, b, a),
      (b, c, d, a),
      (c, d, d, a + c - b),
      (d, e, e, 0),
    ):
      seen_until[row, start:end] = until
      positions[row, start:end] = np.arange(first, first + end - start)
  return seen_until, positions


def masks():
  """[B, T, T] of the rows above, and of causal ones."""
  causal = np.tril(np.ones((T, T), bool))[None]
  seen_until, _ = packed_rows()
  return {
    'packed': causal & (np.arange(T)[:, None] < seen_until[:, None]),
    'causal': np.repeat(causal, B, 0),
  }


MASKS = masks()


def value_and_gradients(mask, q, k, v, out, scale, softcap):
  """Attention's result, and the gradients of q, k, v for that of `out`."""

  @jax.jit
  def run(q, k, v):
    attend = lambda q, k, v: attention.attend(
      q, [attention.Part(KV(k, v), mask)], scale, softcap
    )
    result, backward = jax.vjp(attend, q, k, v)
    return result, backward(jnp.asarray(out, result.dtype))

  return run(q, k, v)


def operands(num_kv, group, hd, num_rows=B):
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  q, out = (draw(num_rows, num_kv, group, T, hd) for _ in range(2))
  k, v = (draw(num_rows, num_kv, T, hd) for _ in range(2))
  return q, k, v, out


def close(got, want):
  def check(got, want):
    atol = 1e-4 * max(1, np.abs(want).max())
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=atol)

  jax.tree.map(check, got, want)


@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize(
  ('num_kv', 'group', 'hd', 'scale', 'softcap'),
  [
    (2, 2, 8, 0.5, None),
    (1, 3, 16, 0.2, 1.5),
    *cases.further((2, 1, 128, 0.1, None)),
  ],
)
def test_splash(mask, num_kv, group, hd, scale, softcap):
  mask, given = jnp.asarray(MASKS[mask]), operands(num_kv, group, hd)
  want = value_and_gradients(mask, *given, scale, softcap)
  mask = Splash.of(mask, interpret=True, largest=128)
  close(value_and_gradients(mask, *given, scale, softcap), want)


@pytest.mark.parametrize('mask', MASKS)
def test_the_plumbing_of_cudnn(mask):
  """All but the kernel itself: layouts, mask, scale."""
  mask, given = jnp.asarray(MASKS[mask]), operands(2, 2, 8)
  want = value_and_gradients(mask, *given, 0.3, None)
  mask = kernels.prepare('cudnn_interpreted', mask)
  close(value_and_gradients(mask, *given, 0.3, None), want)


def test_cudnn():
  if jax.default_backend() != 'gpu':
    pytest.skip('cudnn needs a GPU')
  mask = jnp.asarray(MASKS['packed'])
  given = [jnp.asarray(x, jnp.bfloat16) for x in operands(2, 2, 64)]
  want = value_and_gradients(mask, *given, 0.1, None)
  mask = kernels.prepare('cudnn', mask)
  got = value_and_gradients(mask, *given, 0.1, None)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      *(np.asarray(x, np.float32) for x in (a, b)), atol=0.1
    ),
    got,
    want,
  )


@pytest.mark.parametrize('implementation', ['cudnn_interpreted', 'cudnn'])
def test_parts_behind_each_other(implementation):
  """Prompts behind a shared prefix of odd length, which one row sees."""
  dtype, atol = jnp.float32, 2e-6
  if implementation == 'cudnn':
    if jax.default_backend() != 'gpu':
      pytest.skip('cudnn needs a GPU')
    dtype, atol = jnp.bfloat16, 0.03
  rng = np.random.default_rng(3)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  prefix, own = (
    KV(draw(rows, 2, s, 64), draw(rows, 2, s, 64))
    for rows, s in ((1, 37), (B, 24))
  )
  q = draw(B, 2, 3, 24, 64)
  seen = jnp.broadcast_to(jnp.array([True, False])[:, None, None], (B, 1, 37))
  parts = [
    attention.Part(prefix, seen),
    attention.Part(own, jnp.tril(jnp.ones((1, 24, 24), bool))),
  ]
  attend = lambda parts: attention.attend(q, parts, 0.1, None)
  got = jax.jit(lambda: attend([attention.joined(parts, implementation)]))()
  np.testing.assert_allclose(
    *(np.asarray(x, np.float32) for x in (got, attend(parts))), atol=atol
  )


@pytest.mark.slow('8 s: compiles interpreted kernels')
def test_a_network_with_splash():
  """Packed rows with prefixes and padding, windows, a cap, one log-sum kept."""
  model, params = networks.build(
    networks.SWITCHES['two_thetas']
    | {'windows': (150, 0), 'attention_softcap': 0.5, 'query_scale': 0.9}
  )
  seen_until, positions = packed_rows()
  tokens = np.random.default_rng(2).integers(0, 32, (B, T))

  @functools.partial(jax.jit, static_argnums=(1, 2))
  def run(params, implementation, remat):
    def loss(params):
      hidden = model.hidden(
        params,
        tokens,
        positions,
        seen_until,
        remat=remat,
        implementation=implementation,
      )
      return jnp.sum(hidden**2)

    return jax.value_and_grad(loss)(params)

  want = run(params, 'xla', 'none')
  close(run(params, 'splash_interpreted', 'attention'), want)


@pytest.mark.parametrize(
  'implementation', ['splash_interpreted', 'cudnn_interpreted']
)
def test_on_a_mesh(implementation):
  """Rows over data and fsdp, heads over tensor: as on one device."""
  mesh = partitioning.make_mesh(data=2, fsdp=2, tensor=2)
  mask = jnp.asarray(np.concatenate([*MASKS.values()]))
  given = operands(2, 2, 8, num_rows=4)
  want = value_and_gradients(mask, *given, 0.3, None)
  with jax.set_mesh(mesh):
    kernel = kernels.prepare(implementation, mask)
    got = value_and_gradients(kernel, *given, 0.3, None)
  assert got[0].sharding.spec == partitioning.spec(('batch', 'kv_heads'))
  close(got, want)


def test_auto_is_splash_on_tpus_only():
  given = {'config': CONFIG, 'dtype': jnp.bfloat16, 'row_len': 1024}
  choose = functools.partial(kernels.choose, 'auto')
  got = {p: choose(platform=p, **given) for p in ('tpu', 'gpu', 'cpu')}
  assert got == {'tpu': 'splash', 'gpu': 'xla', 'cpu': 'xla'}
  assert choose(platform='tpu', **given | {'row_len': 1000}) == 'xla'


@pytest.mark.parametrize(
  ('choice', 'platform', 'changed', 'words'),
  [
    ('flash', 'tpu', {}, 'write one of auto, xla, splash, cudnn'),
    ('splash', 'gpu', {}, 'runs on TPUs, not on a gpu'),
    ('splash', 'tpu', {'row_len': 1000}, 'a multiple of 128 tokens, not 1000'),
    ('cudnn', 'tpu', {}, 'runs on GPUs, not on a tpu'),
    ('cudnn', 'gpu', {'dtype': jnp.float32}, 'bfloat16 only'),
    ('cudnn', 'gpu', {'softcap': 5.0}, 'no soft cap'),
  ],
)
def test_a_choice_that_cannot_be(choice, platform, changed, words):
  given = {'dtype': jnp.bfloat16, 'row_len': 1024} | changed
  softcap = given.pop('softcap', None)
  config = ModelConfig(**networks.SMALL, attention_softcap=softcap)
  with pytest.raises(ValueError, match=words):
    kernels.choose(choice, platform=platform, config=config, **given)


GIVEN = {
  'config': dataclasses.replace(CONFIG, head_dim=64),
  'dtype': jnp.bfloat16,
  'row_len': 1024,
}


def test_each_choice_where_it_can_be(monkeypatch):
  monkeypatch.setattr(kernels, '_compute_capability', lambda: '9.0')
  choose = functools.partial(kernels.choose, **GIVEN)
  assert choose('cudnn', platform='gpu') == 'cudnn'
  assert choose('splash', platform='tpu') == 'splash'
  assert choose('splash', platform='cpu') == 'splash_interpreted'
  assert choose('xla', platform='tpu') == 'xla'


@pytest.mark.parametrize(
  ('platform', 'capability', 'change', 'chosen'),
  [
    ('gpu', '9.0', {}, 'cudnn'),
    ('gpu', '7.5', {}, 'xla'),  # before Ampere
    ('gpu', 'gfx942', {}, 'xla'),  # AMD
    ('gpu', 'None', {}, 'xla'),
    ('gpu', '9.0', {'dtype': jnp.float32}, 'xla'),
    ('gpu', '9.0', {'head_dim': 256}, 'xla'),
    ('gpu', '9.0', {'head_dim': 36}, 'xla'),
    ('gpu', '9.0', {'attention_softcap': 50.0}, 'xla'),
    ('gpu', '9.0', {'row_len': 1001}, 'xla'),
    ('tpu', 'None', {}, 'splash'),
    ('tpu', 'None', {'row_len': 1000}, 'xla'),
    ('cpu', 'None', {}, 'xla'),
  ],
)
def test_auto(monkeypatch, platform, capability, change, chosen):
  monkeypatch.setattr(kernels, '_compute_capability', lambda: capability)
  fields = {k: v for k, v in change.items() if k not in GIVEN}
  config = dataclasses.replace(GIVEN['config'], **fields)
  change = {k: v for k, v in change.items() if k in GIVEN}
  given = GIVEN | {'config': config} | change
  assert kernels.choose('auto', platform=platform, **given) == chosen


def test_no_cudnn_on_an_old_gpu(monkeypatch):
  monkeypatch.setattr(kernels, '_compute_capability', lambda: '7.5')
  with pytest.raises(ValueError, match=r"'cudnn' needs .* 8\.0, .* has 7\.5"):
    kernels.choose('cudnn', platform='gpu', **GIVEN)


@pytest.mark.parametrize(
  ('platform', 'capability', 'change', 'chosen'),
  [
    ('gpu', '9.0', {}, 'triton'),
    ('gpu', '7.5', {}, 'xla'),
    ('gpu', 'gfx942', {}, 'xla'),
    ('gpu', '9.0', {'kv_dtype': 'int8'}, 'xla'),
    ('gpu', '9.0', {'dtype': 'float32', 'kv_dtype': 'float32'}, 'xla'),
    ('tpu', 'None', {}, 'xla'),
    ('cpu', 'None', {}, 'xla'),
  ],
)
def test_auto_of_decoding(monkeypatch, platform, capability, change, chosen):
  monkeypatch.setattr(kernels, '_compute_capability', lambda: capability)
  given = {'dtype': 'bfloat16', 'kv_dtype': 'bfloat16'} | change
  got = kernels.choose_decoding('auto', platform=platform, **given)
  assert got == chosen
  if chosen == 'xla' and platform != 'cpu':
    with pytest.raises(ValueError, match=r"decode_attention='triton' .*leave"):
      kernels.choose_decoding('triton', platform=platform, **given)


def test_decoding_without_pallas_triton(monkeypatch):
  """As a later JAX will have it."""
  monkeypatch.setattr(kernels, '_compute_capability', lambda: '9.0')
  monkeypatch.setattr(kernels.importlib.util, 'find_spec', lambda _: None)
  given = {'dtype': 'bfloat16', 'kv_dtype': 'bfloat16', 'platform': 'gpu'}
  assert kernels.choose_decoding('auto', **given) == 'xla'
