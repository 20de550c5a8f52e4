"""Every array where the table of rules says, and the same numbers there."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import networks
import numpy as np
import pytest

from restem_jax import partitioning

# Heads, kv heads, mlp and vocabulary are divisible by 4, embed by 8.
FIELDS = networks.SWITCHES['all'] | {'num_kv_heads': 4, 'num_heads': 8}
MESHES = [(8, 1, 1), (1, 8, 1), (2, 1, 4), (2, 2, 2)]


def mesh_of(sizes):
  return partitioning.make_mesh(*sizes)


@pytest.mark.parametrize(
  ('sizes', 'expected'),
  [
    ({}, (8, 1, 1)),
    ({'tensor': 2}, (4, 1, 2)),
    ({'data': 1, 'fsdp': -1, 'tensor': 2}, (1, 4, 2)),
    ({'data': 2, 'fsdp': 2, 'tensor': 2}, (2, 2, 2)),
  ],
)
def test_mesh(sizes, expected):
  mesh = partitioning.make_mesh(**sizes)
  assert mesh.axis_names == ('data', 'fsdp', 'tensor')
  assert mesh.devices.shape == expected
  assert mesh.devices.ravel().tolist() == jax.devices()


def test_a_mesh_by_its_shape():
  """With one process, all of it is local."""
  for fields, expected in (
    ({}, (8, 1, 1)),
    ({'data': 2, 'fsdp': -1, 'tensor': 2}, (2, 2, 2)),
  ):
    shape = partitioning.MeshShape(**fields)
    assert shape.make().devices.shape == expected
    assert shape.make_local() == shape.make()
  some = partitioning.MeshShape(fsdp=2).make(jax.devices()[4:])
  assert some.devices.shape == (2, 2, 1)
  with pytest.raises(ValueError, match='needs 4 devices, there are 8'):
    partitioning.MeshShape(data=4).make()


def test_a_mesh_that_does_not_divide_the_model(built):
  model, params = built
  check = lambda mesh: partitioning.check_divides(
    mesh, model.logical_axes(), params
  )
  check(partitioning.make_mesh(2, 1, 4))
  with pytest.raises(
    ValueError, match='attention/k has 4 kv_heads, which mesh tensor=8 does'
  ):
    check(partitioning.make_mesh(1, 1, 8))


@pytest.mark.parametrize(
  ('sizes', 'parts'), [((8, 1, 1), 8), ((2, 2, 2), 4), ((1, 1, 8), 1)]
)
def test_batches_of_the_mesh(sizes, parts):
  mesh = mesh_of(sizes)
  assert partitioning.batch_parts(mesh) == parts
  assert partitioning.local_rows(mesh, 16) == list(range(16))
  batch = {'x': np.arange(48).reshape(16, 3)}
  whole = partitioning.global_batch(mesh, batch, 16)
  np.testing.assert_array_equal(whole['x'], batch['x'])
  held = {shard.data.shape for shard in whole['x'].addressable_shards}
  assert held == {(16 // parts, 3)}
  assert partitioning.to_local(whole, mesh, {'x': ('batch', None)}) is whole


def test_mesh_over_some_devices():
  mesh = partitioning.make_mesh(fsdp=2, devices=jax.devices()[4:])
  assert mesh.devices.shape == (2, 2, 1)
  assert mesh.devices.ravel().tolist() == jax.devices()[4:]


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ((4, 1, 1), 'data=4 fsdp=1 tensor=1 needs 4 devices, there are 8; set one'),
    ((4, 4, 1), 'needs 16 devices, there are 8; set one of them to -1'),
    ((-1, 3, 1), 'does not divide 8 devices'),
    ((-1, -1, 1), 'set at most one of them to -1'),
    ((-1, 0, 1), 'fsdp=0 .*write positive sizes, or -1'),
    ((-2, -4, 1), 'write positive sizes, or -1'),
  ],
)
def test_a_mesh_that_does_not_fit_says_what_to_write(sizes, message):
  with pytest.raises(ValueError, match=message):
    partitioning.make_mesh(*sizes)


def test_spec_follows_the_rules():
  axes = ('layers', 'embed', 'kv_heads', 'head_dim')
  assert partitioning.spec(axes) == PartitionSpec(None, 'fsdp', 'tensor', None)
  assert partitioning.spec(('batch', None)) == PartitionSpec(
    ('data', 'fsdp'), None
  )
  assert partitioning.spec(
    ('batch', 'length', 'embed'), partitioning.ACTIVATION_RULES
  ) == PartitionSpec(('data', 'fsdp'), None, None)


@pytest.mark.parametrize(
  ('axes', 'message'),
  [
    (('batch', 'embed'), "'batch' and 'embed' of .* both map to .* 'fsdp'"),
    (
      ('heads', 'mlp'),
      "'heads' and 'mlp' of .* both map to mesh axis 'tensor'",
    ),
    (('vocab', 'vocab'), "'vocab' and 'vocab' .* map one of them to None"),
    (('experts',), "'experts' has no rule; add it to RULES"),
  ],
)
def test_collisions_and_unknown_axes_raise(axes, message):
  with pytest.raises(ValueError, match=message):
    partitioning.spec(axes)


# What each parameter of a model with every switch is split over.
SPLITS = {
  'embed/table': ('tensor', 'fsdp'),
  'final_norm': ('fsdp',),
  'head': ('fsdp', 'tensor'),
  'layers/attention/k': (None, 'fsdp', 'tensor', None),
  'layers/attention/k_bias': (None, 'tensor', None),
  'layers/attention/k_norm': (None, None),
  'layers/attention/o': (None, 'tensor', None, 'fsdp'),
  'layers/attention/q': (None, 'fsdp', 'tensor', None),
  'layers/attention/q_bias': (None, 'tensor', None),
  'layers/attention/q_norm': (None, None),
  'layers/attention/v': (None, 'fsdp', 'tensor', None),
  'layers/attention/v_bias': (None, 'tensor', None),
  'layers/mlp/down': (None, 'tensor', 'fsdp'),
  'layers/mlp/gate': (None, 'fsdp', 'tensor'),
  'layers/mlp/up': (None, 'fsdp', 'tensor'),
  'layers/post_attention_norm': (None, 'fsdp'),
  'layers/post_mlp_norm': (None, 'fsdp'),
  'layers/pre_attention_norm': (None, 'fsdp'),
  'layers/pre_mlp_norm': (None, 'fsdp'),
}


@pytest.fixture(scope='module')
def built():
  return networks.build(FIELDS)


@pytest.mark.parametrize('sizes', MESHES)
def test_where_every_parameter_lies(built, sizes):
  model, params = built
  mesh = mesh_of(sizes)
  placed = jax.device_put(
    params, partitioning.shardings(mesh, model.logical_axes())
  )
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(placed):
    name = '/'.join(key.key for key in path)
    found[name] = tuple(leaf.sharding.spec)
    parts = [1 if axis is None else mesh.shape[axis] for axis in found[name]]
    held = {shard.data.shape for shard in leaf.addressable_shards}
    assert held == {
      tuple(n // k for n, k in zip(leaf.shape, parts, strict=True))
    }
  assert found == SPLITS


@pytest.fixture(scope='module')
def expected(built):
  model, params = built
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 32, (8, 6), dtype=np.int32)
  return ids, jax.jit(model.forward)(params, ids)


@pytest.mark.parametrize('sizes', MESHES)
def test_the_same_logits_on_every_mesh(built, expected, sizes):
  model, params = built
  ids, logits = expected
  mesh = mesh_of(sizes)
  placed = jax.device_put(
    params, partitioning.shardings(mesh, model.logical_axes())
  )
  rows = partitioning.shardings(mesh, ('batch', 'length'))
  forward = jax.jit(model.forward)
  with jax.set_mesh(mesh):  # activations are constrained
    out = forward(placed, jax.device_put(ids, rows))
  np.testing.assert_allclose(out, logits, atol=1e-5)


def test_activations_are_constrained_on_a_mesh_only():
  x = jnp.zeros((8, 2, 4))
  axes = ('batch', 'length', 'embed')
  assert partitioning.constrain(x, axes) is x
  mesh = mesh_of((2, 2, 2))
  with jax.set_mesh(mesh):
    out = jax.jit(lambda x: partitioning.constrain(x, axes))(x)
  assert {s.data.shape for s in out.addressable_shards} == {(2, 2, 4)}
