"""Tests of restem_jax.rewards.intervals."""

import pytest

from restem_jax.rewards import answers, intervals
from restem_jax.rewards.normalize import normalize


def solutions(text):
  found = intervals.solutions(answers.parse(normalize(text)))
  return found and (found[0], found[1].text)


@pytest.mark.parametrize(
  ('text', 'name', 'values'),
  [
    ('x>3', 'x', r'(3,\infty)'),
    ('3<x', 'x', r'(3,\infty)'),
    (r'x\le\sqrt2', 'x', r'(-\infty,\sqrt{2}]'),
    (r'2\ge y>1', 'y', '(1,2]'),
    (r'x\ne3', 'x', r'(-\infty,3)\cup(3,\infty)'),
    (r'3\ne x', 'x', r'(-\infty,3)\cup(3,\infty)'),
    ('x<-1 or x>1', 'x', r'(-\infty,-1)\cup(1,\infty)'),
    ('x<-2a or x>2a', 'x', r'(-\infty,-2a)\cup(2a,\infty)'),
    ('x=0 or 1<x<2', 'x', r'\{0\}\cup(1,2)'),
    (r'x\in(0,1)\text{ or }x\in(2,3]', '', r'(0,1)\cup(2,3]'),
    ('x>1 and x<2a', 'x', '(1,2a)'),
    ('x<3 and x>1', 'x', '(1,3)'),
    # What else could the comma say?
    ('x<-1, x>1', 'x', r'(-\infty,-1)\cup(1,\infty)'),
    ('x<1, x>1', 'x', r'(-\infty,1)\cup(1,\infty)'),
    ('x=0, 1<x<2', 'x', r'\{0\}\cup(1,2)'),
    (r'x\ge1, x<3', 'x', '[1,3)'),
  ],
)
def test_solutions(text, name, values):
  assert solutions(text) == (name, values)


@pytest.mark.parametrize(
  'text',
  [
    '5',
    'x=5',
    '(1,2)',
    '(1,2),(3,4)',
    'x+y>3',
    'x^2<4',
    '|x|<3',
    r'\lfloor x\rfloor<3',
    r'x\ne y',
    'x<1 or y>2',
    'x>1 and x>3',
    'x>1 and 2<x<3',
    # The comma of these could join either way, or is not decided here.
    'x>1, x>3',
    'x>1, 0<x<3',
    r'x\le1, x\ge1',
    r'x<-\sqrt2, x>\sqrt2',
    r'x>1\text{ and }x\ne3',
  ],
)
def test_not_so_simple(text):
  assert solutions(text) is None
