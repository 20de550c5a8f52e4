import itertools

from hypothesis import given, strategies as st
import numpy as np
import pytest

from restem_jax.em.statistics import (
  classes,
  elected,
  pass_at_k,
  wilson_interval,
)

Z = 1.959963984540054


def by_definition(num_correct, num):
  """All p whose own normal interval holds the observed rate, on a grid."""
  p = np.linspace(0, 1, 400_001)
  spread = Z * np.sqrt(p * (1 - p) / num)
  inside = p[np.abs(num_correct / num - p) <= spread + 1e-12]
  return inside.min(), inside.max()


@pytest.mark.parametrize(
  'num_correct, num', [(0, 1), (1, 1), (0, 10), (3, 10), (46, 256), (99, 100)]
)
def test_is_the_score_interval(num_correct, num):
  expected = by_definition(num_correct, num)
  assert wilson_interval(num_correct, num) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
  'num_correct, num, expected',
  [
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
    (81, 263, (0.2553, 0.3662)),
    (15, 148, (0.0624, 0.1605)),
    (0, 20, (0.0000, 0.1611)),
    (1, 29, (0.0061, 0.1718)),
  ],
)
def test_published_values(num_correct, num, expected):
  assert wilson_interval(num_correct, num) == pytest.approx(expected, abs=5e-5)


@given(st.integers(1, 10_000), st.data())
def test_brackets_the_rate_and_mirrors(num, data):
  num_correct = data.draw(st.integers(0, num))
  low, high = wilson_interval(num_correct, num)
  assert 0 <= low <= num_correct / num <= high <= 1
  assert low < high
  mirrored = wilson_interval(num - num_correct, num)
  assert (1 - high, 1 - low) == pytest.approx(mirrored)


def test_nothing_observed_and_nonsense():
  assert wilson_interval(0, 0) == (0.0, 1.0)
  for num_correct, num in ((3, 2), (-1, 2)):
    with pytest.raises(ValueError, match='not a proportion'):
      wilson_interval(num_correct, num)


@pytest.mark.parametrize('num', range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(num):
  for num_correct in range(num + 1):
    right = [i < num_correct for i in range(num)]
    for k in range(1, num + 1):
      subsets = list(itertools.combinations(right, k))
      share = sum(map(any, subsets)) / len(subsets)
      assert pass_at_k(num, num_correct, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_by_hand_and_nonsense():
  assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
  assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
  # Large numbers: (1 - 1/200) of the subsets of 199 samples hold any one.
  assert pass_at_k(200, 1, 199) == pytest.approx(199 / 200)
  for num, num_correct, k in ((3, 4, 1), (3, 1, 4), (3, 1, 0), (0, 0, 1)):
    with pytest.raises(ValueError, match='pass@'):
      pass_at_k(num, num_correct, k)


def test_classes_ask_only_representatives():
  asked = []

  def same(a, b):
    asked.append((a, b))
    return a.lower() == b.lower()

  assert classes(['a', 'b', 'A', 'a', 'C', 'B', 'A'], same) == [
    *(0, 1, 0, 0, 2, 1, 0)
  ]
  # Seven answers, five spellings, three classes.
  assert asked == [
    *[('a', 'b'), ('a', 'A'), ('a', 'C')],
    *[('b', 'C'), ('a', 'B'), ('b', 'B')],
  ]


@pytest.mark.parametrize(
  ('answers', 'winner'),
  [
    (['7'], '7'),
    (['1', '7', '7'], '7'),
    (['1', '7'], '1'),  # a tie: first seen
    (['7', '1', '1', '7'], '7'),
    (['a', 'b', 'A', 'c', 'b', 'A'], 'A'),  # class a: its commonest spelling
    (['a', 'A', 'b'], 'a'),
  ],
)
def test_elected(answers, winner):
  numbers = classes(answers, lambda a, b: a.lower() == b.lower())
  assert elected(answers, numbers) == winner


def test_a_vote_needs_voters():
  with pytest.raises(ValueError, match='ballot'):
    elected([], [])
