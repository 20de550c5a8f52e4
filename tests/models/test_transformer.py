"""The forward pass: causal, cached = uncached, segments apart."""

import dataclasses
import functools

import cases
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from restem_jax.models import cache
from restem_jax.models.config import ModelConfig, RopeScaling
from restem_jax.models.transformer import Model

BASE = ModelConfig(
  vocab_size=32,
  num_layers=3,
  embed_dim=16,
  mlp_dim=24,
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
)
CONFIGS = {
  'llama': BASE,
  'qwen2': dataclasses.replace(BASE, qkv_bias=True, tied_embeddings=False),
  'mistral': dataclasses.replace(
    BASE,
    windows=(3,),
    rope_scaling=RopeScaling(kind='llama3', factor=8.0, original_max_len=16),
  ),
  'gemma': dataclasses.replace(
    BASE,
    qk_norm=True,
    post_norms=True,
    scale_embeddings=True,
    activation='gelu_tanh',
    attention_softcap=50.0,
    logit_softcap=30.0,
    query_scale=0.3,
    windows=(3, 0),
    rope_local_theta=100.0,
    rope_scaling=RopeScaling(factor=2.0),
  ),
}
TOKENS = jax.random.randint(jax.random.key(1), (2, 9), 0, 32)


# One program each, where eager calls would compile every operation.
forward = jax.jit(Model.forward, static_argnums=0)
extend = jax.jit(
  Model.extend, static_argnums=0, static_argnames='implementation'
)
hidden_of = jax.jit(Model.hidden, static_argnums=0, static_argnames='remat')


@pytest.fixture(
  scope='module',
  params=['llama', 'gemma', *cases.further('qwen2', 'mistral')],
)
def built(request):
  model = Model(CONFIGS[request.param])
  return model, networks.random_params(model)


def test_the_tree_has_the_configs_size_and_axes(built):
  model, params = built
  sizes = [x.size for x in jax.tree.leaves(params)]
  assert sum(sizes) == model.config.num_params
  initial = jax.eval_shape(model.init, jax.random.key(0))
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), initial)
  abstract = jax.tree.map(lambda x: (x.shape, x.dtype), model.abstract_params())
  assert shapes == abstract
  jax.tree.map(
    lambda x, axes: np.testing.assert_equal(x.ndim, len(axes)),
    params,
    model.logical_axes(),
  )


def test_initial_values():
  """Of the key; norms one, biases zero, matrices normal / sqrt(fan-in)."""
  fields = {'qkv_bias': True, 'qk_norm': True, 'num_layers': 2}
  model = Model(dataclasses.replace(BASE, **fields))
  params = model.init(jax.random.key(0))
  attention = params['layers']['attention']
  np.testing.assert_array_equal(attention['q_bias'], 0)
  np.testing.assert_array_equal(attention['q_norm'], 1)
  down = params['layers']['mlp']['down']
  assert float(jnp.std(down)) == pytest.approx(24**-0.5, rel=0.1)
  assert jnp.abs(down[0] - down[1]).max() > 0.1  # no two layers alike
  again, other = model.init(jax.random.key(0)), model.init(jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, params, again)
  assert jnp.abs(other['layers']['mlp']['down'] - down).max() > 0.1


def test_the_future_is_not_seen(built):
  model, params = built
  changed = TOKENS.at[:, 5].set((TOKENS[:, 5] + 1) % 32)
  a, b = forward(model, params, TOKENS), forward(model, params, changed)
  np.testing.assert_array_equal(a[:, :5], b[:, :5])
  assert jnp.abs(a[:, 5:] - b[:, 5:]).max() > 1e-3


@pytest.mark.parametrize('lens', [(5, 2, 3), *cases.further(((10,),))])
def test_cached_equals_uncached(built, lens):
  model, params = built
  want = forward(model, params, TOKENS)
  params = model.unstacked(params)
  zeros, rows = jnp.zeros(2, jnp.int32), jnp.arange(2)
  held = cache.insert(
    cache.empty(model.config, 2, lens, jnp.float32),
    extend(model, params, TOKENS[:, :4])[1],
    rows,
    rows,
    zeros,
    zeros + 4,
  )
  for t in range(4, 9):
    hidden, held = extend(
      model, params, TOKENS[:, t : t + 1], held.length[:, None], cache=held
    )
    held = held._replace(length=held.length + 1)
    logits = model.logits(params, hidden)
    np.testing.assert_allclose(logits[:, 0], want[:, t], atol=2e-5)


def test_tokens_no_longer_seen_are_another_sequence(built):
  model, params = built
  a, b = TOKENS[0, :5], TOKENS[1, :4]
  packed = jnp.concatenate([a, b])[None]
  seen_until = jnp.array([[5] * 5 + [9] * 4])
  positions = jnp.array([[*range(5), *range(4)]])
  got = forward(model, params, packed, positions, seen_until)[0]
  np.testing.assert_allclose(
    got[:5], forward(model, params, a[None])[0], atol=2e-5
  )
  np.testing.assert_allclose(
    got[5:], forward(model, params, b[None])[0], atol=2e-5
  )


def test_sequences_may_share_their_beginning(built):
  model, params = built
  prefix, a, b = TOKENS[0, :4], TOKENS[0, 4:6], TOKENS[1, :3]
  hidden = hidden_of(
    model,
    params,
    jnp.concatenate([prefix, a, b])[None],
    jnp.array([[0, 1, 2, 3, 4, 5, 4, 5, 6]]),
    jnp.array([[9] * 4 + [6] * 2 + [9] * 3]),
  )
  got = model.logits(params, hidden)[0]
  for part, rows in ((a, got[4:6]), (b, got[6:])):
    alone = forward(model, params, jnp.concatenate([prefix, part])[None])[0, 4:]
    np.testing.assert_allclose(rows, alone, atol=2e-5)


@pytest.mark.parametrize(
  'implementation', ['xla', *cases.further('cudnn_interpreted')]
)
def test_a_context_of_one_row_serves_all_rows(built, implementation):
  """Two prefixes prefilled once, in one row, then a row behind each."""
  model, params = built
  if implementation != 'xla' and model.config.attention_softcap is not None:
    model = Model(dataclasses.replace(model.config, attention_softcap=None))
  extend_by = functools.partial(extend, implementation=implementation)
  want = forward(model, params, TOKENS)
  params = model.unstacked(params)
  # In front of them and behind is padding, which nobody sees.
  number = jnp.array([[0] * 2 + [1] * 4 + [2] * 4 + [0]])
  at = jnp.array([[0, 0, *range(4), *range(4), 0]])
  pad = jnp.array([9])
  row = jnp.concatenate([pad, pad, TOKENS[0, :4], TOKENS[1, :4], pad])[None]
  _, layers = extend_by(model, params, row, at, number)
  seen = number == jnp.array([[1], [2]])
  positions = jnp.broadcast_to(jnp.arange(4, 9)[None], (2, 5))
  hidden, _ = extend_by(
    model,
    params,
    TOKENS[:, 4:],
    positions,
    contexts=(cache.Context(layers, at, seen),),
  )
  got = model.logits(params, hidden)
  np.testing.assert_allclose(got, want[:, 4:], atol=2e-5)


@pytest.mark.parametrize('window', [1, 3])
def test_a_window_is_so_many_tokens_wide(window):
  """Logits of one layer depend on the last `window` tokens, no others."""
  model = Model(dataclasses.replace(BASE, num_layers=1, windows=(window,)))
  params = networks.random_params(model)
  # Row `at` differs from row 9 in token `at` alone.
  rows = jnp.tile(TOKENS[:1], (10, 1))
  index = jnp.arange(9)
  rows = rows.at[index, index].set((TOKENS[0] + 1) % 32)
  logits = forward(model, params, rows)
  moved = np.abs(logits[:9] - logits[9:]).max(-1) > 1e-6  # [at, t]
  distance = np.arange(9)[None] - np.arange(9)[:, None]
  np.testing.assert_array_equal(moved, (distance >= 0) & (distance < window))


def test_gradients_are_f32_at_bf16_compute():
  model = Model(BASE, jnp.bfloat16)
  params = networks.random_params(model)
  hidden = jax.eval_shape(model.hidden, params, TOKENS)
  assert hidden.dtype == jnp.bfloat16
  gradient = jax.grad(lambda p: model.forward(p, TOKENS).mean())
  shapes = jax.eval_shape(gradient, params)
  dtypes = {x.dtype for x in jax.tree.leaves((params, shapes))}
  assert dtypes == {jnp.dtype(jnp.float32)}


@pytest.fixture(scope='module')
def gradient():
  """The gradient of some loss, by the settings of remat and scan_layers."""
  model = Model(CONFIGS['gemma'])
  params = networks.random_params(model)

  def loss(params, remat, scan):
    hidden = model.hidden(params, TOKENS, remat=remat, scan_layers=scan)
    return jnp.sum(hidden**2)

  jitted = jax.jit(jax.grad(loss), static_argnums=(1, 2))
  return functools.cache(lambda remat, scan=True: jitted(params, remat, scan))


@pytest.mark.parametrize(
  'remat', ['full', 'attention, residual', *cases.further('dots', 'qkv', 'mlp')]
)
def test_remat_changes_no_gradient(gradient, remat):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    gradient(remat),
    gradient('none'),
  )


def test_layers_one_by_one_change_no_gradient(gradient):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    gradient('full', scan=False),
    gradient('none'),
  )


def test_programs_do_not_grow_with_depth():
  def equations(num_layers):
    model = Model(dataclasses.replace(BASE, num_layers=num_layers))
    params = model.abstract_params()
    text = str(jax.make_jaxpr(model.forward)(params, TOKENS))
    return text.count('\n')

  assert equations(2) == equations(8)


def test_bf16_compute_with_f32_parameters():
  params = networks.random_params(Model(BASE))
  want = forward(Model(BASE), params, TOKENS)
  got = forward(Model(BASE, jnp.bfloat16), params, TOKENS)
  assert got.dtype == jnp.float32  # logits are
  assert 0 < jnp.abs(got - want).max() < 0.1 * jnp.abs(want).max()
