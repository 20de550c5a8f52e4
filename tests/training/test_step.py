"""One step equals optax by hand, in microbatches, and on any mesh."""

import functools

import cases
import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import packed
import pytest

from restem_jax import partitioning
from restem_jax.training import losses, step as step_lib

NUM_ROWS = 8
SGD = optax.sgd(1.0)
# A large eps: Adam's ratio of two nothings would only compare rounding.
ADAMW = optax.chain(
  optax.clip_by_global_norm(0.5), optax.adamw(0.1, eps=0.01, weight_decay=0.1)
)


@pytest.fixture(scope='module')
def built():
  model, params = networks.build({'num_heads': 4, 'num_kv_heads': 4})
  return model, jax.tree.map(np.asarray, params)


@pytest.fixture(scope='module')
def batch():
  """Eight rows of very different weight; two are padding."""
  feed = packed.feed(
    packed.random_examples(12), batch_size=NUM_ROWS, row_len=16
  )
  batch = packed.first_batch(feed)
  rows = batch['weights'].any(-1)
  assert 4 <= rows.sum() <= NUM_ROWS - 2, rows
  batch['weights'] *= np.arange(1, 9, dtype=np.float32)[:, None]
  return jax.tree.map(jnp.asarray, batch)


def fresh(built, optimizer, mesh=None):
  model, params = built
  if mesh is None:
    params = jax.tree.map(jnp.array, params)
  else:
    axes = model.logical_axes()
    params = jax.device_put(params, partitioning.shardings(mesh, axes))
  return step_lib.init_state(model, optimizer, params, mesh)


make_step = functools.cache(step_lib.make_train_step)


def steps(built, batch, optimizer, num=1, mesh=None, **kwargs):
  state = fresh(built, optimizer, mesh)
  step = make_step(built[0], optimizer, mesh=mesh, **kwargs)
  for _ in range(num):
    state, metrics = step(state, batch)
  return state, metrics


def assert_close(a, b, **tolerance):
  jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


@pytest.fixture(scope='module')
def adamw_twice(built, batch):
  state, metrics = steps(built, batch, ADAMW, num=2)
  return jax.tree.map(np.asarray, (state, metrics))


def test_equals_plain_optax(built, batch, adamw_twice):
  """The gradient of the mean, clipped, then AdamW: twice."""
  model, params = built

  @jax.jit
  def update(params, opt_state):
    def mean(params):
      total, weight = losses.weighted_nll(model, params, batch)
      return total / weight

    loss, grad = jax.value_and_grad(mean)(params)
    updates, opt_state = ADAMW.update(grad, opt_state, params)
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grad)))
    return optax.apply_updates(params, updates), opt_state, (loss, norm)

  params = jax.tree.map(jnp.asarray, params)
  opt_state = jax.jit(ADAMW.init)(params)
  for _ in range(2):
    params, opt_state, (loss, norm) = update(params, opt_state)
  state, metrics = adamw_twice
  assert state.step == 2
  assert_close(state.params, params, atol=1e-5)
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(metrics['grad_norm'], norm, rtol=1e-4)
  assert metrics['grad_norm'] > 0.5  # before clipping
  np.testing.assert_allclose(
    metrics['weight'], batch['weights'][:, 1:].sum(), rtol=1e-6
  )


@pytest.fixture(scope='module')
def sgd_once(built, batch):
  return jax.tree.map(np.asarray, steps(built, batch, SGD))


def test_the_gradient_is_that_of_the_mean(built, batch, sgd_once):
  """SGD with rate 1 subtracts it; finite differences say what it is."""
  model, params = built

  @jax.jit
  def mean(final_norm):
    params = jax.tree.map(jnp.asarray, built[1]) | {'final_norm': final_norm}
    total, weight = losses.weighted_nll(model, params, batch)
    return total / weight

  state, metrics = sgd_once
  norm = params['final_norm']
  assert metrics['loss'] == pytest.approx(float(mean(norm)), rel=1e-5)
  for i in range(0, 16, 5):
    delta = np.float32(0.01) * (np.arange(16) == i)
    slope = (mean(norm + delta) - mean(norm - delta)) / 0.02
    got = norm[i] - state.params['final_norm'][i]
    assert got == pytest.approx(float(slope), rel=0.02, abs=1e-3)


def test_microbatches_give_the_full_gradient(built, batch, sgd_once):
  # Of two rows each, of different weight; the last has none.
  parts = steps(built, batch, SGD, num_microbatches=4)
  assert_close(parts[0].params, sgd_once[0].params, rtol=1e-5, atol=2e-6)
  assert_close(parts[1], sgd_once[1], rtol=1e-5)


@pytest.mark.parametrize(
  'sizes',
  [(2, 2, 2), *cases.further(((8, 1, 1),), ((1, 8, 1),), ((2, 1, 4),))],
  ids=str,
)
def test_a_mesh_equals_one_device(built, batch, adamw_twice, sizes):
  mesh = partitioning.make_mesh(*sizes)
  rows = partitioning.shardings(mesh, ('batch', 'length'))
  state, metrics = steps(
    built, jax.device_put(batch, rows), ADAMW, num=2, mesh=mesh
  )
  assert_close(metrics, adamw_twice[1], rtol=1e-5)
  assert_close(state.params, adamw_twice[0].params, atol=1e-5)
  # Parameters and moments stay where they were born.
  want = step_lib.state_shardings(built[0], ADAMW, mesh)
  jax.tree.map(
    lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(s),
    state,
    want,
  )
  q = want.opt_state[1][0].mu['layers']['attention']['q']
  assert q == want.params['layers']['attention']['q']
  assert tuple(q.spec) == (None, 'fsdp', 'tensor', None)


MESHES = {
  'data': (8, 1, 1),
  'fsdp': (1, 8, 1),
  'tensor': (1, 1, 4),
  'mixed': (2, 2, 2),
}
# Of a parameter and of the moments of it.
SPECS = {
  'embed/table': ('tensor', 'fsdp'),
  'final_norm': ('fsdp',),
  'layers/attention/k': (None, 'fsdp', 'tensor', None),
  'layers/attention/o': (None, 'tensor', None, 'fsdp'),
  'layers/attention/q': (None, 'fsdp', 'tensor', None),
  'layers/attention/v': (None, 'fsdp', 'tensor', None),
  'layers/mlp/down': (None, 'tensor', 'fsdp'),
  'layers/mlp/gate': (None, 'fsdp', 'tensor'),
  'layers/mlp/up': (None, 'fsdp', 'tensor'),
  'layers/pre_attention_norm': (None, 'fsdp'),
  'layers/pre_mlp_norm': (None, 'fsdp'),
}


def on_mesh(sizes):
  devices = jax.devices()[: int(np.prod(sizes))]
  return partitioning.make_mesh(*sizes, devices=devices)


@pytest.mark.parametrize(
  ('name', 'num_microbatches'),
  [
    ('fsdp', 1),
    ('mixed', 2),
    *cases.further(*((name, 1) for name in MESHES if name != 'fsdp')),
    *cases.further(('data', 2), ('fsdp', 2), ('tensor', 2)),
  ],
)
def test_loss_and_gradient_on_a_mesh(
  built, batch, sgd_once, name, num_microbatches
):
  """SGD with rate 1: the difference of the parameters is the gradient."""
  mesh = on_mesh(MESHES[name])
  if NUM_ROWS % (num_microbatches * partitioning.batch_parts(mesh)):
    batch = jax.tree.map(lambda x: jnp.concatenate([x, 0 * x]), batch)
  rows = partitioning.shardings(mesh, ('batch', 'length'))
  state, metrics = steps(
    built,
    jax.device_put(batch, rows),
    SGD,
    mesh=mesh,
    num_microbatches=num_microbatches,
  )
  assert_close(metrics, sgd_once[1], rtol=1e-5)
  gradient = lambda new: jax.tree.map(lambda a, b: a - b, built[1], new)
  assert_close(
    gradient(jax.tree.map(np.asarray, state.params)),
    gradient(sgd_once[0].params),
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize(
  'mesh_name', ['mixed', *cases.further('data', 'fsdp', 'tensor')]
)
def test_where_every_leaf_of_the_state_lies(built, batch, mesh_name):
  """As it is born, and after a step."""
  mesh = on_mesh(MESHES[mesh_name])
  born = fresh(built, ADAMW, mesh)
  moments = lambda state: state.opt_state[1][0]
  before = jax.tree.map(lambda x: x.sharding, born)
  trees = (born.params, moments(born).mu, moments(born).nu)
  for tree in trees:
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      name = '/'.join(key.key for key in path)
      assert leaf.sharding.mesh == mesh
      found[name] = tuple(leaf.sharding.spec)
      parts = [1 if axis is None else mesh.shape[axis] for axis in found[name]]
      held = {shard.data.shape for shard in leaf.addressable_shards}
      assert held == {
        tuple(n // k for n, k in zip(leaf.shape, parts, strict=True))
      }
    assert found == SPECS
  for scalar in (born.step, moments(born).count):
    assert scalar.sharding.is_fully_replicated
  if NUM_ROWS % partitioning.batch_parts(mesh) == 0:
    rows = partitioning.shardings(mesh, ('batch', 'length'))
    step = make_step(built[0], ADAMW, mesh=mesh)
    after, _ = step(born, jax.device_put(batch, rows))
    jax.tree.map(
      lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(s),
      after,
      before,
    )


# Two dimensions of at least 8 are factored: the larger one is averaged over in
# rows, the other one in columns. Attention's [2, 16, 4, 4] has only one.
ADAFACTOR = optax.adafactor(0.1, min_dim_size_to_factor=8)
ROWS_OF = {
  'embed/table': ('fsdp',),
  'layers/mlp/down': (None, 'fsdp'),
  'layers/mlp/gate': (None, 'fsdp'),
  'layers/mlp/up': (None, 'fsdp'),
}
COLUMNS_OF = {
  'embed/table': ('tensor',),
  'layers/mlp/down': (None, 'tensor'),
  'layers/mlp/gate': (None, 'tensor'),
  'layers/mlp/up': (None, 'tensor'),
}


def factored(opt_state):
  (found,) = (
    leaf
    for leaf in jax.tree.leaves(
      opt_state, is_leaf=lambda x: hasattr(x, 'v_row')
    )
    if hasattr(leaf, 'v_row')
  )
  return found


@pytest.mark.slow('5 s each: adafactor compiles longest')
@pytest.mark.parametrize('name', MESHES)
def test_factored_moments_lie_as_their_parameters(built, batch, name):
  """Without the dimension that they are a mean over; and train alike."""
  mesh = on_mesh(MESHES[name])
  born = fresh(built, ADAFACTOR, mesh)
  moments = factored(born.opt_state)
  for tree, split in (
    (moments.v_row, ROWS_OF),
    (moments.v_col, COLUMNS_OF),
    (moments.v, {name: SPECS[name] for name in SPECS.keys() - ROWS_OF.keys()}),
  ):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      name = '/'.join(key.key for key in path)
      assert tuple(leaf.sharding.spec) == split.get(name, ()), name
      assert (leaf.shape == (1,)) == (name not in split), name
      parts = [
        1 if a is None else mesh.shape[a] for a in split.get(name, (None,))
      ]
      held = {shard.data.shape for shard in leaf.addressable_shards}
      assert held == {
        tuple(n // k for n, k in zip(leaf.shape, parts, strict=True))
      }
  if NUM_ROWS % partitioning.batch_parts(mesh) == 0:
    before = jax.tree.map(lambda x: x.sharding, born)
    rows = partitioning.shardings(mesh, ('batch', 'length'))
    step = make_step(built[0], ADAFACTOR, mesh=mesh)
    after, _ = step(born, jax.device_put(batch, rows))
    jax.tree.map(
      lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(s),
      after,
      before,
    )
    alone, _ = steps(built, batch, ADAFACTOR)
    assert_close(after.params, alone.params, atol=1e-5)


@pytest.mark.slow('4 s each: compiles a step')
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_first_moment_has_the_dtype_of_the_recipe(built, batch, dtype):
  """And is sharded as its parameter; the second is f32: optax has no other."""
  optimizer = optax.adamw(0.1, mu_dtype=dtype)
  mesh = on_mesh((1, 2, 2))
  rows = partitioning.shardings(mesh, ('batch', 'length'))
  state, _ = steps(
    built, jax.device_put(batch, rows), optimizer, num=2, mesh=mesh
  )
  moments = state.opt_state[0]
  assert {x.dtype for x in jax.tree.leaves(moments.mu)} == {jnp.dtype(dtype)}
  assert {x.dtype for x in jax.tree.leaves(moments.nu)} == {
    jnp.dtype('float32')
  }
  assert any(x.any() for x in jax.tree.leaves(moments.mu))
  jax.tree.map(
    lambda m, p: (
      m.sharding.is_equivalent_to(p.sharding, p.ndim) or pytest.fail(p.sharding)
    ),
    moments.mu,
    state.params,
  )


def test_the_state_is_donated(built, batch):
  state = fresh(built, SGD)
  make_step(built[0], SGD)(state, batch)
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


def test_a_batch_without_weight_changes_nothing(built, batch):
  nothing = batch | {'weights': jnp.zeros_like(batch['weights'])}
  state, metrics = steps(built, nothing, SGD)
  assert_close(state.params, built[1], rtol=0)
  assert metrics == {'loss': 0, 'weight': 0, 'grad_norm': 0}
