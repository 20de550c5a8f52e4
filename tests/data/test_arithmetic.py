"""Generated problems, without SeqIO."""

import sys

import pytest

from restem_jax.data import arithmetic


def test_no_seed_moves_a_question_to_another_split():
  pytest.importorskip('reasoning_gym')
  tests = arithmetic.problems('products', 'test', 60, seed=0)
  trains = arithmetic.problems('products', 'train', 200, seed=1)
  words = lambda ps: {tuple(sorted(p.question.split())) for p in ps}
  assert not words(tests) & words(trains)
  assert [p.id for p in trains] != [
    p.id for p in arithmetic.problems('products', 'train', 200, seed=0)
  ]
  with pytest.raises(ValueError, match='ask for fewer'):
    arithmetic.problems('gcd', 'validation', 2000, seed=0)


def test_missing_reasoning_gym_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'reasoning_gym', None)
  with pytest.raises(ValueError, match=r'restem_jax\[quickstart\]'):
    arithmetic.problems('gcd', 'train', 1, seed=0)
