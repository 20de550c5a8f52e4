"""Generated functions: splits, tests, and references that pass them."""

import itertools

import pytest

from restem_jax.data import functions, source, splits


@pytest.fixture(scope='module')
def by_split():
  return {s: functions.problems(s, seed=0) for s in source.SPLITS}


def test_every_problem_is_in_one_split(by_split):
  everything = [p for problems in by_split.values() for p in problems]
  questions = {splits.normalised(p.question) for p in everything}
  assert len(questions) == len(everything) == 15 * 30 + 2 * 90
  assert {p.id for p in everything} == {p.id for p in functions._all(0)}
  # Each split is large enough for the recipe, and has all families.
  for problems in by_split.values():
    assert len(problems) >= 64
    names = {p.meta['entry_point'] for p in problems}
    assert names == set(functions.FAMILIES)


def test_the_seed_draws_order_and_tests_and_moves_nothing(by_split):
  again = functions.problems('test', seed=0)
  assert again == by_split['test']
  other = functions.problems('test', seed=1)
  assert [p.id for p in other] != [p.id for p in again]
  assert {p.question for p in other} == {p.question for p in again}
  tests = {p.id: p.meta['tests'] for p in other}
  changed = [p.id for p in again if tests[p.id] != p.meta['tests']]
  assert len(changed) > len(again) / 2


def test_tests_are_distinct_and_tell_constants_apart():
  everything = list(functions._all(0))
  for problem in everything:
    tests = problem.meta['tests']
    assert len(set(tests)) == 6 and problem.meta['shown'] == 3
    assert len({t.rpartition(' == ')[2] for t in tests[:3]}) > 1
  # Nobody passes with the function of other constants.
  for problem, other in itertools.pairwise(everything):
    if problem.meta['entry_point'] == other.meta['entry_point']:
      assert not passes(other.solution, problem.meta['tests'])
      assert not passes(problem.solution, other.meta['tests'])


def passes(program, tests):
  """Runs text of our own, by other means than the grader."""
  scope = {}
  exec(program, scope)  # noqa: S102
  try:
    for test in tests:
      exec(test, scope)  # noqa: S102
  except AssertionError:
    return False
  return True


def test_references_pass(by_split):
  for problems in by_split.values():
    assert all(passes(p.solution, p.meta['tests']) for p in problems)


def test_one_problem_by_hand():
  (found,) = [p for p in functions._all(0) if p.id == 'functions/linear/4_3']
  assert found.question == (
    'Write a Python function linear(x) that returns the number x multiplied by'
    ' 4, plus 3.'
  )
  assert found.solution == 'def linear(x):\n    return x * 4 + 3'
  assert found.meta['tests'][0].startswith('assert linear(')


def test_unknown_split():
  with pytest.raises(ValueError, match="no split 'dev'"):
    functions.problems('dev', seed=0)
