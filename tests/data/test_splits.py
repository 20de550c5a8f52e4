"""How splits are cut and limits shared out."""

import hypothesis
from hypothesis import strategies as st
import pytest

from restem_jax.data import source, splits
from restem_jax.records import Problem


@hypothesis.given(st.sets(st.text(max_size=4), min_size=1), st.integers(0, 9))
def test_splits_do_not_depend_on_the_other_rows(ids, seed):
  problems = [
    Problem(id=f'id{i}', question=f'q{i}', answer='1') for i in sorted(ids)
  ]
  kinds = {'name': 'x', 'seed': seed}
  fractions = {'validation_fraction': 0.3, 'test_fraction': 0.3}
  whole = splits.carve({'train': problems}, **kinds, **fractions)
  for problem in problems:
    alone = splits.carve({'train': [problem]}, **kinds, **fractions)
    for split in source.SPLITS:
      assert (problem in whole[split]) == (alone[split] == [problem])


@pytest.mark.parametrize(
  'total, sizes, rates, counts',
  [
    (256, [512] * 4, [1, 1, 1, 1], [64] * 4),
    (10, [9, 9, 9], [1, 1, 1], [4, 3, 3]),
    (10, [2, 50, 50], [1, 1, 2], [2, 2, 6]),
    (99, [2, 3], [1, 5], [2, 3]),
    (5, [9, 9], [0, 1], [0, 5]),
    (0, [9, 9], [1, 1], [0, 0]),
  ],
)
def test_allot(total, sizes, rates, counts):
  assert splits.allot(total, sizes, rates) == counts


@hypothesis.given(
  st.integers(0, 200),
  st.lists(
    st.tuples(st.integers(0, 60), st.floats(0.01, 9)), min_size=1, max_size=6
  ),
)
def test_allot_gives_all_there_is(total, pairs):
  sizes, rates = zip(*pairs, strict=True)
  counts = splits.allot(total, sizes, rates)
  assert sum(counts) == min(total, sum(sizes))
  assert all(0 <= c <= s for c, s in zip(counts, sizes, strict=True))
