from hypothesis import given, strategies as st
import numpy as np
import pytest

from restem_jax.em.statistics import wilson_interval

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
