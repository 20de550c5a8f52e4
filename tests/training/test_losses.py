"""The loss by its definition; packing and chunking change nothing."""

import collections
import dataclasses

import cases
import hypothesis
import jax
import jax.numpy as jnp
import networks
import numpy as np
import packed
import pytest

from restem_jax import partitioning
from restem_jax.models.transformer import Model
from restem_jax.training import losses


@pytest.fixture(scope='module')
def built():
  # Windows: positions, not indices, must tell what is near.
  return networks.build({'windows': (6, 0), 'qk_norm': True})


@pytest.fixture(scope='module')
def loss_and_grad(built):
  model, params = built

  @jax.jit
  def both(batch):
    fn = lambda p: losses.weighted_nll(model, p, batch, chunk_size=16)
    (total, weight), grad = jax.value_and_grad(fn, has_aux=True)(params)
    return total, weight, grad

  return both


def by_definition(model, params, examples, weights):
  """(sum of w * -log p, sum of w) in f64, one example at a time."""
  total = 0.0
  for example, weight in zip(examples, weights, strict=True):
    ids = [*example.prompt_ids, *example.target_ids]
    padded = np.zeros((1, packed.ROW_LEN), np.int32)
    padded[0, : len(ids)] = ids
    logits = np.asarray(jax.jit(model.forward)(params, padded)[0], np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for t in range(len(example.prompt_ids), len(ids)):
      total -= weight * logprobs[t - 1, ids[t]]
  lengths = [len(e.target_ids) for e in examples]
  return total, np.dot(weights, lengths)


@pytest.mark.parametrize('chunk_size', [7, 1000, *cases.further(1, 16)])
def test_the_loss_is_its_definition(built, chunk_size):
  model, params = built
  examples = packed.random_examples(6)
  weights = [0.5, 1, 2, 0, 1, 3]
  examples = [
    dataclasses.replace(e, weight=w)
    for e, w in zip(examples, weights, strict=True)
  ]
  batch = packed.one_per_row(examples)
  fn = jax.jit(
    losses.weighted_nll, static_argnums=0, static_argnames='chunk_size'
  )
  got = fn(model, params, batch, chunk_size=chunk_size)
  expected = by_definition(model, params, examples, weights)
  assert got[0].dtype == got[1].dtype == jnp.float32
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@hypothesis.given(
  packed.example_lists,
  hypothesis.strategies.booleans(),
  hypothesis.strategies.sampled_from(['real_tokens', 'per_problem']),
)
def test_packed_equals_unpacked(loss_and_grad, examples, share, normalizer):
  feed = packed.feed(examples, share_prefixes=share, normalizer=normalizer)
  total, weight, grad = loss_and_grad(packed.first_batch(feed))
  alone = loss_and_grad(packed.one_per_row(examples, normalizer))
  np.testing.assert_allclose(weight, alone[1], rtol=1e-6)
  np.testing.assert_allclose(total, alone[0], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
    grad,
    alone[2],
  )


def test_random_examples_do_share_rows_and_prefixes():
  """So the comparison above compares something."""
  seen = collections.Counter()

  @hypothesis.given(packed.example_lists)
  def count(examples):
    batch = next(packed.feed(examples).epoch(0))
    index = batch['index']
    seen['rows shared'] += any(len(set(row) - {-1}) > 1 for row in index)
    shared = (index < 0) & (batch['tokens'] > 0)
    seen['prefixes shared'] += int(shared.any())
    # A prefix within a longer one ends later.
    until = [
      set(u[s].tolist())
      for u, s in zip(batch['seen_until'], shared, strict=True)
    ]
    seen['trees'] += int(any(len(u) > 1 for u in until))

  count()
  assert min(seen[k] for k in ('rows shared', 'prefixes shared', 'trees')) > 4


class CountingModel(Model):
  """Counts how often the head really runs."""

  calls = 0

  def logits(self, params, hidden):
    jax.debug.callback(self._count)
    return super().logits(params, hidden)

  @staticmethod
  def _count():
    CountingModel.calls += 1


def test_chunks_without_targets_cost_nothing(built):
  model = CountingModel(built[0].config)
  batch = packed.one_per_row(packed.random_examples(6))
  assert 16 < (batch['weights'] > 0).sum() <= 24
  fn = jax.jit(
    losses.weighted_nll, static_argnums=0, static_argnames='chunk_size'
  )
  before = CountingModel.calls
  total, _ = fn(model, built[1], batch, chunk_size=8)
  jax.effects_barrier()
  # So many targets fill 3 chunks of 8, of the 15 that 6 * 19 tokens are.
  assert CountingModel.calls - before == 3 and np.isfinite(total)


def test_gradients_need_no_logits_of_their_own(built):
  """They are computed with the loss: three products with the head, not four."""
  model = CountingModel(built[0].config)
  batch = packed.one_per_row(packed.random_examples(6))

  def loss(params):
    return losses.weighted_nll(model, params, batch, chunk_size=8)[0]

  before = CountingModel.calls
  jax.block_until_ready(jax.jit(jax.grad(loss))(built[1]))
  jax.effects_barrier()
  assert CountingModel.calls - before == 3


@pytest.mark.parametrize('tied', [True, False])
def test_the_heads_gradient_is_a_sum_in_f32(tied):
  """Its products are bf16, what the loop over chunks carries is not."""
  model, params = networks.build({'tied_embeddings': tied})
  model = Model(model.config, jnp.bfloat16)
  batch = packed.one_per_row(packed.random_examples(6))
  loss = lambda p: losses.weighted_nll(model, p, batch, chunk_size=8)[0]
  head = params['embed']['table'] if tied else params['head']
  carried = [
    v.aval.dtype
    for e in jax.make_jaxpr(jax.grad(loss))(params).jaxpr.eqns
    if e.primitive.name == 'scan'
    for v in e.outvars
    if v.aval.shape == head.shape
  ]
  assert carried == [jnp.float32]


def test_tokens_without_weight_do_not_matter(built, loss_and_grad):
  batch = packed.one_per_row(packed.random_examples(6))
  # What follows the last target is seen by no target and has no weight.
  changed = batch | {'tokens': batch['tokens'].copy()}
  behind = np.cumsum(batch['weights'][:, ::-1], 1)[:, ::-1] == 0
  changed['tokens'][behind] = 5
  assert (changed['tokens'] != batch['tokens']).any()
  a, b = loss_and_grad(batch), loss_and_grad(changed)
  np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a[2], b[2]
  )


def test_no_weight_no_loss(loss_and_grad):
  batch = packed.one_per_row(packed.random_examples(6))
  batch['weights'][:] = 0
  total, weight, grad = loss_and_grad(batch)
  assert total == weight == 0
  jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), grad)


def largest(jaxpr):
  """Elements of the largest array that a program makes."""
  sizes = [v.aval.size for e in jaxpr.eqns for v in e.outvars]
  for equation in jaxpr.eqns:
    for value in jax.tree.leaves(
      list(equation.params.values()),
      is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr'),
    ):
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        sizes.append(largest(inner))
  return max(sizes, default=0)


def test_the_whole_logits_never_exist():
  """Neither forwards nor backwards; else B * T * V is the largest array."""
  model = Model(networks.config(vocab_size=1000))
  params = model.abstract_params()
  batch = packed.one_per_row(packed.random_examples(6))
  batch = jax.tree.map(jnp.asarray, batch)
  num_tokens = batch['tokens'].size

  def loss(params, chunk_size):
    return losses.weighted_nll(model, params, batch, chunk_size=chunk_size)[0]

  def size(chunk_size):
    fn = jax.grad(lambda p: loss(p, chunk_size))
    return largest(jax.make_jaxpr(fn)(params).jaxpr)

  assert size(8) < num_tokens * 1000 / 5 < size(num_tokens)


def test_bfloat16_compute_sums_in_f32(built):
  _, params = built
  model = Model(built[0].config, jnp.bfloat16)
  batch = packed.one_per_row(packed.random_examples(6))
  fn = jax.jit(losses.weighted_nll, static_argnums=0)
  total, weight = fn(model, params, batch)
  assert total.dtype == weight.dtype == jnp.float32
  exact, _ = fn(built[0], params, batch)
  assert total == pytest.approx(float(exact), rel=0.02)


@pytest.mark.parametrize(
  ('sizes', 'tied'),
  [
    ((2, 2, 2), False),
    *cases.further(
      ((1, 8, 1), True),
      ((8, 1, 1), True),
      ((8, 1, 1), False),
      ((1, 8, 1), False),
      ((2, 2, 2), True),
    ),
  ],
)
def test_a_mesh_changes_nothing(tied, sizes):
  """Rows stay on their devices, and `fsdp` splits the vocabulary."""
  fields = {'tied_embeddings': tied, 'num_heads': 4, 'num_kv_heads': 4}
  model, params = networks.build(fields)
  feed = packed.feed(packed.random_examples(12), batch_size=8, row_len=16)
  batch = packed.first_batch(feed)
  fn = lambda p, b: losses.weighted_nll(model, p, b, chunk_size=5)
  both = lambda p, b: jax.value_and_grad(fn, has_aux=True)(p, b)
  (total, weight), grad = jax.jit(both)(params, batch)
  mesh = partitioning.make_mesh(*sizes)
  placed = jax.device_put(
    params, partitioning.shardings(mesh, model.logical_axes())
  )
  rows = jax.sharding.NamedSharding(mesh, partitioning.spec(('batch', None)))
  with jax.set_mesh(mesh):
    got = jax.jit(both)(placed, jax.device_put(batch, rows))
  np.testing.assert_allclose(got[0], (total, weight), rtol=1e-5)
  for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(grad), strict=True):
    # Sums of up to 70: rounding is that of the largest.
    atol = 1e-5 * max(1.0, float(np.abs(b).max()))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)
