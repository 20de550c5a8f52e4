"""Tests of restem_jax.rewards.extraction."""

import time

import pytest

from restem_jax.rewards import extraction


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    (r'thus $x=\boxed{5}$.', '5'),
    (r'\boxed{\frac{1}{\sqrt{2}}}', r'\frac{1}{\sqrt{2}}'),
    (r'\boxed{\{1,2\}}', r'\{1,2\}'),
    (r'\boxed 4$ is it', '4'),
    (r'\fbox{12}', '12'),
    (r'\boxed {7}', '7'),
    ('first \\boxed{1}\nthen \\boxed{2}', '2'),
    (r'The answer is \boxed{7}, that is \boxed{ 7 }.', '7'),
    (r'Final Answer: \boxed{3}. As \boxed{3} shows.', '3'),
    (r'\boxed{1}, $\boxed{2}$ and \boxed{3}', '1, 2 and 3'),
    (r'\boxed{x<1} \text{ or } \boxed{x>2}', 'x<1 or x>2'),
    # Not this: several answers, nothing, not closed, too long.
    (r'The final answer is \boxed{7}. Or maybe \boxed{8}.', None),
    (r'\boxed{8}\boxed{7}', None),
    ('The answer is 7', None),
    (r'\boxed{}', None),
    (r'\boxed{1 + (2', None),
    (r'\boxed{' + '1' * 301 + '}', None),
    ('', None),
  ],
)
def test_boxed(text, answer):
  assert extraction.boxed(text) == answer


def test_boxed_before_the_marker_does_not_count_after_it():
  text = r'\boxed{1} is wrong. The answer is \boxed{2}'
  assert extraction.boxed(text) == '2'


def test_boxed_survives_an_unclosed_box():
  assert extraction.boxed('\\boxed{oops\n\\boxed{7}') == '7'


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    ('so 9*2=18\n#### 18', '18'),
    ('#### $1,200.', '$1,200'),
    ('####5\n', '5'),
    ('#### 18\n#### 18', '18'),
    ('#### 18\n\nQ: next\n#### 5', None),
    ('18', None),
  ],
)
def test_hashes(text, answer):
  assert extraction.hashes(text) == answer


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    ('The answer is: 42', '42'),
    ('Hence the answer is 42.\nthanks', '42'),
    ('**Answer:** 42', '42'),
    ('The final answer is $x$. I hope it is correct.', '$x$'),
    ('no marker', None),
  ],
)
def test_answer_is(text, answer):
  assert extraction.answer_is(text) == answer


@pytest.mark.parametrize(
  ('text', 'first', 'last'),
  [
    (' 42', '42', '42'),
    ('\n42\n\n', '42', '42'),
    ('Answer: 42', '42', '42'),
    ('A: 3/4.', '3/4', '3/4'),
    ('7\nbecause 3+4\n= 8', '7', '= 8'),
    ('so the answer is 5', '5', '5'),
    ('  \n ', None, None),
  ],
)
def test_lines(text, first, last):
  assert extraction.first_line(text) == first
  assert extraction.last_line(text) == last


def test_first_of_takes_the_first_that_answers():
  extract = extraction.first_of([extraction.boxed, extraction.last_line])
  assert extract(r'\boxed{1}') == '1'
  assert extract('2') == '2'
  assert extract(' ') is None


def test_first_of_nothing_says_what_to_write():
  with pytest.raises(ValueError, match=r'extraction\.boxed'):
    extraction.first_of([])


@pytest.mark.parametrize(
  'text',
  ['\\boxed{' * 20000, '\\boxed{' * 20000 + '}' * 20000, '{' * 100000,
   '\\boxed{1}' * 20000, 'answer is ' * 20000, '####' * 20000,
   ' ' * 100000 + 'answer', '*' * 100000, '\n' * 100000],
)  # fmt: skip
def test_hostile_text_takes_linear_time(text):
  start = time.process_time()
  for extract in (
    extraction.boxed,
    extraction.hashes,
    extraction.answer_is,
    extraction.first_line,
    extraction.last_line,
  ):
    extract(text)
  assert time.process_time() - start < 2.0
