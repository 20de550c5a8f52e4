"""LoRA against autodiff through merged weights, by hand, and on any mesh."""

import functools

import cases
import jax
from jax.extend import core
import jax.numpy as jnp
import networks
import numpy as np
import optax
import packed
import pytest

from restem_jax import partitioning
from restem_jax.training import losses, step as step_lib
from restem_jax.training.lora import Lora, TARGETS

LORA = Lora(rank=3, alpha=6.0)
SGD = optax.sgd(1.0)
ADAMW = optax.adamw(0.1, eps=0.01, weight_decay=0.1)
HEADS = {'num_heads': 4, 'num_kv_heads': 4}

# What a merged weight is, in letters: l layers, r rank.
FORMULAS = {
  **dict.fromkeys('qkv', 'ldr,lrnh->ldnh'),
  'o': 'lnhr,lrd->lnhd',
  **dict.fromkeys(('gate', 'up', 'down'), 'lir,lro->lio'),
}


def reference(lora, params, adapters):
  """All layers' w + (alpha / rank) a b, whole."""
  layers = dict(params['layers'])
  for group, weights in adapters['layers'].items():
    for name, ab in weights.items():
      update = jnp.einsum(FORMULAS[name], ab['a'], ab['b'])
      new = layers[group][name] + lora.alpha / lora.rank * update
      layers[group] = layers[group] | {name: new}
  return params | {'layers': layers}


def trained(lora, model, seed=0):
  """Adapters as training leaves them: nothing is zero."""
  rng = np.random.default_rng(seed)
  draw = lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32)
  return jax.tree.map(draw, lora.abstract(model))


@pytest.fixture(scope='module')
def batch():
  feed = packed.feed(packed.random_examples(12), batch_size=8, row_len=16)
  batch = packed.first_batch(feed)
  batch['weights'] *= np.arange(1, 9, dtype=np.float32)[:, None]
  return jax.tree.map(jnp.asarray, batch)


def assert_close(a, b, **tolerance):
  jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def mean_loss(model, params, batch, remat='none'):
  total, weight = losses.weighted_nll(model, params, batch, remat=remat)
  return total / weight


@pytest.mark.parametrize(
  ('switches', 'remat'),
  [
    ('all', 'full'),
    *cases.further(('plain', 'none'), ('all', 'none'), ('plain', 'full')),
  ],
)
def test_loss_and_gradient(batch, switches, remat):
  """Those of the merged weights, differentiated through the merge."""
  model, params = networks.build(networks.SWITCHES[switches])
  adapters = trained(LORA, model)

  @jax.jit
  def ours(adapters):
    attached = LORA.attached(params, adapters)
    return mean_loss(model, attached, batch, remat)

  @jax.jit
  def slow(adapters):
    return mean_loss(model, reference(LORA, params, adapters), batch)

  loss, gradient = jax.value_and_grad(ours)(adapters)
  slow_loss, slow_gradient = jax.value_and_grad(slow)(adapters)
  np.testing.assert_allclose(loss, slow_loss, rtol=1e-5)
  scale = max(np.abs(x).max() for x in jax.tree.leaves(slow_gradient))
  assert min(np.abs(x).max() for x in jax.tree.leaves(gradient)) > 0
  assert_close(gradient, slow_gradient, rtol=1e-5, atol=1e-5 * scale)


def test_merged():
  model, params = networks.build({'qkv_bias': True})
  adapters = trained(LORA, model)
  merged = LORA.merged(model, params, adapters)
  assert_close(merged, reference(LORA, params, adapters), atol=1e-6)
  # Of anything else it is the very array.
  assert merged['embed']['table'] is params['embed']['table']
  some = Lora(rank=2, targets=['v', 'down'])  # a list, as gin gives it
  assert some.targets == ('v', 'down')
  merged = some.merged(model, params, trained(some, model))
  same = jax.tree.map(np.array_equal, merged, params)
  changed = [
    path[-1].key
    for path, equal in jax.tree_util.tree_leaves_with_path(same)
    if not equal
  ]
  assert sorted(changed) == ['down', 'v']


def test_full_rank_reaches_any_weight():
  """a = 1 and b = what is missing, by hand: D = 16, alpha / rank = 1 / 2."""
  model, params = networks.build()
  _, other = networks.build(seed=1)
  lora = Lora(rank=16, alpha=8.0, targets=('gate', 'q'))
  adapters = lora.init(model, seed=0, iteration=1)
  for group, name in (('mlp', 'gate'), ('attention', 'q')):
    missing = other['layers'][group][name] - params['layers'][group][name]
    ab = adapters['layers'][group][name]
    ab['a'] = jnp.broadcast_to(jnp.eye(16), ab['a'].shape)
    ab['b'] = 2 * missing
  layers = params['layers']
  wanted = params | {
    'layers': layers
    | {
      'mlp': layers['mlp'] | {'gate': other['layers']['mlp']['gate']},
      'attention': layers['attention']
      | {'q': other['layers']['attention']['q']},
    }
  }
  assert_close(lora.merged(model, params, adapters), wanted, atol=1e-6)
  tokens = jnp.arange(12).reshape(2, 6)
  expected = model.forward(wanted, tokens)
  found = model.forward(lora.attached(params, adapters), tokens)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.abs(expected - model.forward(params, tokens)).max() > 0.1


def test_fresh_adapters():
  model, params = networks.build()
  draw = lambda lora=LORA, seed=0, iteration=1, mesh=None: lora.init(
    model, seed=seed, iteration=iteration, mesh=mesh
  )
  adapters = draw()
  tokens = jnp.arange(12).reshape(2, 6)
  np.testing.assert_allclose(
    model.forward(LORA.attached(params, adapters), tokens),
    model.forward(params, tokens),
    atol=1e-5,
  )
  assert_equal(LORA.merged(model, params, adapters), params)
  a = lambda adapters, name='down': adapters['layers']['mlp'][name]['a']
  assert not np.array_equal(a(adapters, 'gate'), a(adapters, 'up'))
  # 0.204 = 24 ** -0.5; of 1000 draws, within a tenth of it.
  wide = Lora(rank=21, targets=('down',))
  assert np.std(a(draw(wide))) == pytest.approx(24**-0.5, rel=0.1)
  # The key is of seed, iteration and name, whatever else there is.
  assert_equal(draw(), adapters)
  # Another program may round the last digit differently.
  close = functools.partial(assert_close, rtol=1e-6)
  close(a(draw(Lora(rank=3, targets=('down',)))), a(adapters))
  close(draw(mesh=partitioning.make_mesh(2, 2, 2)), adapters)
  for other in (draw(seed=1), draw(iteration=2)):
    assert not np.array_equal(a(other), a(adapters))


def steps(model, params, adapters, batch, optimizer, num=1, mesh=None, **more):
  copied = jax.tree.map(jnp.array, [params, adapters])
  if mesh is not None:
    axes = [model.logical_axes(), LORA.logical_axes(model)]
    copied = jax.device_put(copied, partitioning.shardings(mesh, axes))
    batch = jax.device_put(
      batch, partitioning.shardings(mesh, ('batch', 'length'))
    )
  frozen, adapters = copied
  state = step_lib.init_state(model, optimizer, adapters, mesh, LORA, frozen)
  step = step_lib.make_train_step(
    model, optimizer, mesh=mesh, lora=LORA, **more
  )
  for _ in range(num):
    state, metrics = step(state, batch)
  return state, metrics


def shapes(tree):
  return sorted(x.shape for x in jax.tree.leaves(tree))


def test_a_step_trains_adapters_only(batch):
  model, params = networks.build(HEADS)
  adapters = trained(LORA, model)
  state, metrics = steps(model, params, adapters, batch, ADAMW, num=2)
  assert_equal(state.frozen, params)
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max() > 0, state.params, adapters
  )
  assert jax.tree.all(moved) and np.isfinite(metrics['loss'])
  moments = state.opt_state[0]
  assert shapes(moments.mu) == shapes(moments.nu) == shapes(adapters)
  assert len(jax.tree.leaves(state.opt_state)) == 1 + 2 * len(
    jax.tree.leaves(adapters)
  )


@pytest.mark.slow('5 s: compiles two steps')
def test_frozen_weights_in_bf16(batch):
  model, params = networks.build(HEADS, dtype=jnp.bfloat16)
  frozen = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  adapters = trained(LORA, model)
  state, _ = steps(model, frozen, adapters, batch, ADAMW)
  assert_equal(state.frozen, frozen)
  dtypes = lambda tree: {x.dtype for x in jax.tree.leaves(tree)}
  assert dtypes(state.frozen) == {jnp.dtype('bfloat16')}
  assert dtypes(state.params) == {jnp.dtype('float32')}
  merged = LORA.merged(model, frozen, adapters)
  assert dtypes(merged) == {jnp.dtype('bfloat16')}
  # Rounded once, from the f32 sum.
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), frozen)
  sums = reference(LORA, wide, adapters)
  assert_close(
    jax.tree.map(lambda x: np.asarray(x, np.float32), merged),
    sums,
    rtol=2**-8,
    atol=1e-6,
  )


def equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for inner in core.jaxprs_in_params(eqn.params):
      yield from equations(inner)


def test_nothing_of_a_weights_size_is_made(batch):
  """Neither w + a b, nor a gradient of w, nor a copy of the stacked layers."""
  model, params = networks.build()
  sizes = set()
  for group in ('attention', 'mlp'):
    for w in params['layers'][group].values():
      sizes |= {w.shape, w.shape[1:], w.shape[:0:-1]}

  def made(loss, argument):
    jaxpr = jax.make_jaxpr(jax.grad(loss))(argument).jaxpr
    return [
      eqn.primitive.name
      for eqn in equations(jaxpr)
      if any(x.aval.shape in sizes for x in eqn.outvars)
    ]

  whole = lambda params: mean_loss(model, params, batch)
  # Full fine-tuning makes gradients of such sizes.
  assert {'dot_general', 'scan'} <= set(made(whole, params))
  ours = lambda adapters: whole(LORA.attached(params, adapters))
  assert made(ours, LORA.abstract(model)) == []


@pytest.mark.slow('5 s: compiles two steps')
def test_microbatches(batch):
  model, params = networks.build(HEADS)
  args = (model, params, trained(LORA, model), batch, SGD)
  one, parts = steps(*args), steps(*args, num_microbatches=4)
  assert_close(parts[0].params, one[0].params, rtol=1e-5, atol=2e-6)
  assert_close(parts[1], one[1], rtol=1e-5)


MESHES = {
  'data': (8, 1, 1),
  'fsdp': (1, 8, 1),
  'tensor': (1, 1, 4),
  'mixed': (2, 2, 2),
}
SPECS = {
  'attention/q': ((None, 'fsdp', None), (None, None, 'tensor', None)),
  'attention/k': ((None, 'fsdp', None), (None, None, 'tensor', None)),
  'attention/v': ((None, 'fsdp', None), (None, None, 'tensor', None)),
  'attention/o': ((None, 'tensor', None, None), (None, None, 'fsdp')),
  'mlp/gate': ((None, 'fsdp', None), (None, None, 'tensor')),
  'mlp/up': ((None, 'fsdp', None), (None, None, 'tensor')),
  'mlp/down': ((None, 'tensor', None), (None, None, 'fsdp')),
}


@pytest.fixture(scope='module')
def one_device(batch):
  model, params = networks.build(HEADS)
  adapters = trained(LORA, model)
  state, metrics = steps(model, params, adapters, batch, SGD)
  return jax.tree.map(np.asarray, (state.params, metrics))


@pytest.mark.slow('4 s each: compiles a step')
@pytest.mark.parametrize('name', MESHES)
def test_a_mesh_equals_one_device(batch, one_device, name):
  """SGD with rate 1: the difference of the adapters is the gradient."""
  sizes = MESHES[name]
  devices = jax.devices()[: int(np.prod(sizes))]
  mesh = partitioning.make_mesh(*sizes, devices=devices)
  model, params = networks.build(HEADS)
  adapters = trained(LORA, model)
  state, metrics = steps(model, params, adapters, batch, SGD, mesh=mesh)
  assert_close(metrics, one_device[1], rtol=1e-5)
  gradient = lambda new: jax.tree.map(lambda a, b: a - b, adapters, new)
  expected = gradient(one_device[0])
  scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
  assert_close(
    gradient(jax.tree.map(np.asarray, state.params)),
    expected,
    rtol=1e-5,
    atol=1e-5 * scale,
  )
  # Adapters and frozen weights stay where the rules put them.
  for group, weights in state.params['layers'].items():
    for name, ab in weights.items():
      found = tuple(tuple(ab[x].sharding.spec) for x in 'ab')
      padded = tuple(
        spec + (None,) * (ab[x].ndim - len(spec))
        for spec, x in zip(found, 'ab', strict=True)
      )
      assert padded == SPECS[f'{group}/{name}'], name
  want = partitioning.shardings(mesh, model.logical_axes())
  for tree in (
    state.frozen,
    LORA.merged(model, state.frozen, state.params, mesh),
  ):
    jax.tree.map(
      lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(s),
      tree,
      want,
    )
  assert_close(
    LORA.merged(model, state.frozen, state.params, mesh),
    reference(LORA, params, jax.tree.map(np.asarray, state.params)),
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'rank': 0}, 'rank=0; write 1 or more'),
    ({'rank': 1.5}, 'rank=1.5; write 1 or more'),
    ({'alpha': 0.0}, 'alpha=0.0; write more than 0'),
    ({'targets': ('q', 'head')}, 'write a list of some of q, k, v, o, gate'),
    ({'targets': 'qv'}, 'write a list of some of'),
    ({'targets': ()}, 'targets is empty'),
  ],
)
def test_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    Lora(**fields)


def test_all_linear_layers_by_default():
  model, _ = networks.build({'num_layers': 1})
  assert Lora().targets == TARGETS
  linear = {'attention': {'q', 'k', 'v', 'o'}, 'mlp': {'gate', 'up', 'down'}}
  found = Lora().abstract(model)['layers']
  assert {group: set(names) for group, names in found.items()} == linear
