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


def test_given_shots_are_held_out_of_all_splits():
  def problem(name, question=None, task='t'):
    return Problem(
      id=name, question=question or name, answer='', solution='', task=task
    )

  by_split = {
    'train': [problem('a', 'Same  AS'), problem('b'), problem('u', task='u')],
    'validation': [problem('c')],
    'test': [problem('d')],
    'shots': [
      problem('leak', 'D'),  # asks what a test problem asks
      problem('s', 'same as'),
      problem('s2'),
    ],
  }
  limits = dict.fromkeys(('num_train', 'num_validation', 'num_test'))
  found = splits.assemble(by_split, name='x', num_shots=1, **limits)
  # Task u has none of its own, so that its train gives them.
  assert [p.id for p in found.shots] == ['s', 'u']
  assert [p.id for p in found.train] == ['b']
  assert [p.id for p in found.validation + found.test] == ['c', 'd']
  by_split['shots'].append(problem('b', 'new'))
  with pytest.raises(ValueError, match="id 'b' is there twice"):
    splits.assemble(by_split, name='x', num_shots=1, **limits)
