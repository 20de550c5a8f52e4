"""Rows of known data sets."""

import pytest

from restem_jax.data import layouts


def test_gsm8k_row():
  row = {
    'question': 'How many?',
    'answer': 'She sold 48/2 = <<48/2=24>>24.\n#### 1,024',
  }
  problem = layouts.gsm8k_row(row, 'train/1', 'gsm8k')
  assert problem.answer == '1024'
  assert problem.solution == 'She sold 48/2 = 24.\n#### 1,024'
  with pytest.raises(ValueError, match='#### 24'):
    layouts.gsm8k_row({'question': 'q', 'answer': '24'}, 'i', 't')


def test_hendrycks_math_row():
  row = {
    'problem': 'p',
    'solution': r'so \boxed{1} and \boxed{\frac{1}{2}}.',
    'level': 'Level 5',
    'type': 'Algebra',
    'unique_id': 'train/algebra/1.json',
  }
  problem = layouts.hendrycks_math_row(row, 'i', 't')
  assert (problem.id, problem.answer) == (
    'train/algebra/1.json',
    r'\frac{1}{2}',
  )
  assert problem.meta == {'level': 'Level 5', 'type': 'Algebra'}
  given = layouts.hendrycks_math_row({**row, 'answer': '0.5'}, 'i', 't')
  assert given.answer == '0.5'
  with pytest.raises(ValueError, match='boxed'):
    layouts.hendrycks_math_row({'problem': 'p', 'solution': 's'}, 'i', 't')


@pytest.mark.parametrize(
  'text, expected',
  [
    (r'\boxed{a{b}c} \boxed{2}', '2'),
    (r'\boxed{\{1, 2\}}', r'\{1, 2\}'),
    (r'$\boxed 4$.', '4'),
    (r'\fbox{x}', 'x'),
    (r'\boxed{}', ''),
    (r'\boxed{never closed', None),
    ('no box', None),
  ],
)
def test_last_boxed(text, expected):
  assert layouts.last_boxed(text) == expected
