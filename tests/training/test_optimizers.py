import math

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest

from restem_jax.training import optimizers


def test_warmup_cosine_by_hand():
  rate = optimizers.warmup_cosine(20, 0.3, 0.1, 0.1)
  # Two steps of warm-up, from a third of the peak; then 18 steps of cosine
  # from 0.3 to 0.03, halfway (0.165) after 9 of them.
  cosine = lambda share: 0.03 + 0.27 * (1 + math.cos(math.pi * share)) / 2
  expected = {0: 0.1, 1: 0.2, 2: 0.3, 5: cosine(3 / 18), 11: 0.165, 20: 0.03}
  for step, value in expected.items():
    assert float(rate(step)) == pytest.approx(value, rel=1e-5), step
  assert float(rate(99)) == pytest.approx(0.03)


@pytest.mark.parametrize('total_steps', [1, 2, 3])
def test_warmup_cosine_of_a_few_steps(total_steps):
  rate = optimizers.warmup_cosine(total_steps, 0.4)
  rates = [float(rate(step)) for step in range(total_steps)]
  assert rates[0] == pytest.approx(0.2)
  assert rates[1:2] == pytest.approx([0.4] * (total_steps > 1))
  assert all(0.04 <= r <= 0.4 + 1e-7 for r in rates)


def test_constant():
  rate = optimizers.constant(100, 0.25)
  assert [float(rate(step)) for step in (0, 50, 1000)] == [0.25] * 3


def test_decay_spares_norms_and_biases():
  _, params = networks.build(networks.SWITCHES['all'])
  spared = {
    'final_norm',
    *('layers/pre_attention_norm', 'layers/post_attention_norm'),
    *('layers/pre_mlp_norm', 'layers/post_mlp_norm'),
    *(f'layers/attention/{x}_bias' for x in 'qkv'),
    *(f'layers/attention/{x}_norm' for x in 'qk'),
  }
  name = lambda path: '/'.join(key.key for key in path)
  mask = jax.tree_util.tree_leaves_with_path(optimizers.matrices(params))
  assert {name(path) for path, decays in mask if not decays} == spared
  # As adamw uses it: without a gradient, only decay moves parameters.
  optimizer = optax.adamw(0.5, weight_decay=0.2, mask=optimizers.matrices)

  @jax.jit
  def decay(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    return optax.apply_updates(params, updates)

  moved = jax.tree_util.tree_leaves_with_path(decay(params))
  for (path, new), old in zip(moved, jax.tree.leaves(params), strict=True):
    share = 1.0 if name(path) in spared else 1 - 0.5 * 0.2
    np.testing.assert_allclose(new, share * np.asarray(old), rtol=1e-6)
