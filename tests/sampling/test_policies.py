"""Draws follow the distribution that the policy names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restem_jax.sampling import policies

LOGITS = jnp.log(jnp.array([0.4, 0.3, 0.15, 0.1, 0.05]))


def frequencies(policy, logits=LOGITS, num=20_000, rows=20_000):
  keys = jax.random.split(jax.random.key(0), num).reshape(-1, rows)
  same = jnp.broadcast_to(logits[None], (rows, logits.shape[0]))
  draw = jax.jit(policies.draw)
  drawn = [draw(same, each, *policy.scalars()) for each in keys]
  tokens, logprobs = (np.concatenate(x) for x in zip(*drawn, strict=True))
  np.testing.assert_allclose(
    logprobs, jax.nn.log_softmax(logits)[tokens], atol=1e-5
  )
  return np.bincount(tokens, minlength=logits.shape[0])


def chi_square(counts, probs):
  """Pearson's statistic over the outcomes that can happen."""
  probs = np.asarray(probs) / np.sum(probs)
  possible = probs > 0
  assert counts[~possible].sum() == 0
  want = probs[possible] * counts.sum()
  return ((counts[possible] - want) ** 2 / want).sum()


@pytest.mark.parametrize(
  ('policy', 'probs'),
  [
    ({'temperature': 1.0}, [0.4, 0.3, 0.15, 0.1, 0.05]),
    ({'temperature': 0.5}, [0.16, 0.09, 0.0225, 0.01, 0.0025]),
    ({'temperature': 1.0, 'top_k': 2}, [0.4, 0.3, 0, 0, 0]),
    ({'temperature': 1.0, 'top_k': 99}, [0.4, 0.3, 0.15, 0.1, 0.05]),
    ({'temperature': 1.0, 'top_p': 0.8}, [0.4, 0.3, 0.15, 0, 0]),
    # top-p counts what top-k left: 0.4 / 0.7 < 0.6, so two are needed.
    ({'temperature': 1.0, 'top_k': 2, 'top_p': 0.6}, [0.4, 0.3, 0, 0, 0]),
    ({'temperature': 1.0, 'top_k': 2, 'top_p': 0.5}, [0.4, 0, 0, 0, 0]),
  ],
  ids=str,
)
def test_the_distribution_is_the_policys(policy, probs):
  counts = frequencies(policies.Policy(**policy))
  # 99.9 % quantile of chi-square with 4 degrees of freedom.
  assert chi_square(counts, probs) < 18.5


@pytest.mark.parametrize('v', [1000, 8193, 20_000])
@pytest.mark.parametrize('k', [1, 7, 64, 65, 300, 1000])
def test_top_k_equals_a_sort(k, v):
  x = jax.random.normal(jax.random.key(3), (4, v)) * 5
  x = x.at[2].set(jnp.round(x[2]))  # equal ones
  got = jax.jit(policies._kth_largest)(x, jnp.int32(k))
  np.testing.assert_array_equal(got, np.sort(x, -1)[:, -k])


@pytest.mark.parametrize(
  ('k', 'num'), [(1, 200), (7, 4000), (64, 4000), (65, 400)]
)
def test_draws_are_of_the_k_largest_and_follow_their_probabilities(k, num):
  """Of a vocabulary that has more blocks than are looked at."""
  v = 8500
  logits = 3 * np.random.default_rng(0).normal(size=v).astype(np.float32)
  policy = policies.Policy(temperature=1.5, top_k=k)
  counts = frequencies(policy, jnp.asarray(logits), num, rows=200)
  order = np.argsort(-logits)
  assert set(np.flatnonzero(counts)) <= set(order[:k])
  probs = np.exp(logits[order[:k]] / 1.5)
  want = probs / probs.sum() * num
  often = want > 10
  spread = (counts[order[:k]] - want)[often] / np.sqrt(want[often])
  assert np.abs(spread).max() < 4.5


def test_top_p_equals_a_sort():
  probs = jax.nn.softmax(jax.random.normal(jax.random.key(3), (8, 500)) * 2)
  low = jax.jit(policies._nucleus)(probs, jnp.float32(0.9))
  kept = np.asarray(probs >= low[:, None])
  for row, keep in zip(np.asarray(probs), kept, strict=True):
    order = np.argsort(-row)
    num = int((np.cumsum(row[order]) < 0.9).sum()) + 1
    assert set(np.flatnonzero(keep)) == set(order[:num])


def test_inverting_the_cdf_equals_searchsorted():
  probs = jax.nn.softmax(jax.random.normal(jax.random.key(3), (1, 3000)) * 3)
  u = jnp.linspace(0, 0.9999, 997)
  rows = jnp.broadcast_to(probs, (997, 3000))
  got = np.asarray(jax.jit(policies._invert_cdf)(rows, u))
  running = np.cumsum(np.asarray(probs[0], np.float64))
  want = np.searchsorted(running, np.asarray(u, np.float64), side='right')
  # f32 against f64: a draw within rounding of a border may fall beside it.
  assert (got != want).mean() < 0.005
  assert np.abs(running[got] - running[want]).max() < 1e-3


def test_greedy_takes_the_first_of_the_largest():
  logits = jnp.array([[0.0, 2.0, 2.0, 1.0]])
  keys = jax.random.split(jax.random.key(0), 1)
  tokens, _ = policies.draw(logits, keys, *policies.GREEDY.scalars())
  assert tokens.tolist() == [1]


def test_keys_depend_on_every_part():
  words = jnp.array([policies.problem_words(p) for p in 'ab'], jnp.uint32)
  seen = set()
  for seed in (0, 1):
    for iteration in (0, 1):
      for index in (0, 1):
        keys = policies.rollout_keys(
          seed, iteration, words, jnp.array([index, index])
        )
        seen |= {tuple(k) for k in jax.random.key_data(keys).tolist()}
  assert len(seen) == 16


@pytest.mark.parametrize(
  'bad', [{'temperature': -1}, {'top_k': -1}, {'top_p': 0.0}, {'top_p': 1.1}]
)
def test_a_bad_policy_says_what_to_write(bad):
  with pytest.raises(ValueError, match='write temperature'):
    policies.Policy(**bad)
