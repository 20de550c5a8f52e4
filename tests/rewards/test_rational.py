"""Tests of restem_jax.rewards.rational, with `fractions` as the oracle."""

import contextlib
from fractions import Fraction
import time

from hypothesis import given, settings, strategies as st
import pytest

from restem_jax.rewards import rational
from restem_jax.rewards.rational import evaluate, TooLarge, UNDEFINED


@pytest.mark.parametrize(
  ('text', 'value'),
  [
    ('42', 42),
    ('-5', -5),
    ('--5', 5),
    ('.5', '1/2'),
    ('1e3', 1000),
    ('2.5e-1', '1/4'),
    (r'1.5\cdot10^{3}', 1500),
    (r'\frac{4}{6}', '2/3'),
    (r'-\frac{1}{2}', '-1/2'),
    (r'2\frac{1}{2}', '5/2'),
    ('2 1/2', '5/2'),
    (r'-2\frac{1}{2}', '-5/2'),
    ('1/2/2', '1/4'),
    ('2-3-4', -5),
    ('-2^2', -4),
    ('(-2)^2', 4),
    ('2^{-1}', '1/2'),
    ('2^3^2', 512),
    ('2(3)', 6),
    ('(1+2)(3)', 9),
    ('10!', 3628800),
    (r'\binom{5}{2}', 10),
    (r'\sqrt{9}', 3),
    (r'\sqrt{\frac{4}{9}}', '2/3'),
    (r'\sqrt[3]{27}', 3),
    (r'\sqrt[3]{-27}', -3),
    (r'8^{2/3}', 4),
    (r'0.\overline{3}', '1/3'),
    (r'0.1\overline{6}', '1/6'),
    ('1^{99999999999}', 1),
    ('(-1)^{99999999999}', -1),
    (r'\frac{2^{2005}+1}{3\cdot2^{2006}}',
     Fraction(2**2005 + 1, 3 * 2**2006)),
  ],
)  # fmt: skip
def test_values(text, value):
  assert evaluate(text) == Fraction(value)


@pytest.mark.parametrize(
  'text', ['1/0', r'\frac{0}{0}', '0^0', '0^{-1}', r'\frac{7\cdot0}{0}']
)
def test_undefined(text):
  assert evaluate(text) is UNDEFINED


@pytest.mark.parametrize(
  'text',
  ['', 'x', '2x', '1 2', '(1', '1)', r'\sqrt{2}', r'\sqrt{-4}', r'\pi',
   '1..2', '2^{1/2}', '1010_{2}', '(1/2)!', r'\infty', '\u0661', '1 = 1',
   '__import__', '1;2', r'2\frac{1}{2}^{2}', '1,2'],
)  # fmt: skip
def test_no_rational(text):
  assert evaluate(text) is None


@pytest.mark.parametrize(
  'text',
  ['9^9^9^9', '9^{9^{9^9}}', '1000000000!', '((10!)!)!', '1e99999',
   '1.0e-99999', r'\binom{1000000000}{500000000}', '9' * 2000,
   '(' * 150 + '1' + ')' * 150, '1^' * 140 + '1', '1/' * 140 + '0!' * 4,
   '+'.join(['9999^{999}'] * 28), '-' * 10 + '(2^{999})^{999}',
   '{' * 150 + '1' + '}' * 150],
)  # fmt: skip
def test_hostile_is_cheap(text):
  start = time.process_time()
  with contextlib.suppress(TooLarge):
    evaluate(text)
  assert time.process_time() - start < 0.2


@pytest.mark.parametrize('text', ['9^9^9^9', '1000000!', '1e99999'])
def test_too_large_is_told(text):
  with pytest.raises(TooLarge):
    evaluate(text)


# Random expressions: LaTeX text, beside Python's own arithmetic.
_numbers = st.one_of(
  st.integers(0, 999).map(lambda n: (str(n), Fraction(n))),
  st.decimals(0, 99, places=3).map(lambda d: (str(d), Fraction(d))),
)


def _combine(children):
  def binary(op, sign, fn):
    return st.tuples(children, children).map(
      lambda p: (f'({p[0][0]}){sign}({p[1][0]})', fn(p[0][1], p[1][1], op))
    )

  def apply(a, b, op):
    if a is None or b is None or (op == '/' and b == 0):
      return None
    return {'+': a + b, '-': a - b, '*': a * b, '/': a / b if b else None}[op]

  power = st.tuples(children, st.integers(-3, 3)).map(
    lambda p: (
      f'({p[0][0]})^{{{p[1]}}}',
      None
      if p[0][1] is None or (p[0][1] == 0 and p[1] <= 0)
      else p[0][1] ** p[1],
    )
  )
  frac = st.tuples(children, children).map(
    lambda p: (
      rf'\frac{{{p[0][0]}}}{{{p[1][0]}}}',
      apply(p[0][1], p[1][1], '/'),
    )
  )
  negative = children.map(
    lambda p: (f'-({p[0]})', None if p[1] is None else -p[1])
  )
  return st.one_of(
    binary('+', '+', apply),
    binary('-', '-', apply),
    binary('*', r'\cdot ', apply),
    binary('*', '', apply),
    binary('/', '/', apply),
    power,
    frac,
    negative,
  )


@settings(deadline=None)  # the machine may be busy
@given(st.recursive(_numbers, _combine, max_leaves=8))
def test_arithmetic_is_that_of_fractions(case):
  text, value = case
  assert evaluate(text) == (UNDEFINED if value is None else value)


@settings(deadline=None)  # the machine may be busy
@given(
  st.integers(0, 10**12),
  st.integers(1, 10**6),
  st.sampled_from(['{0}/{1}', r'\frac{{{0}}}{{{1}}}', '({0})/({1})']),
)
def test_fractions_in_all_spellings(a, b, spelling):
  assert evaluate(spelling.format(a, b)) == Fraction(a, b)


@settings(deadline=None)  # the machine may be busy
@given(st.text(alphabet='0123456789+-/^!(){}.e \\frac', max_size=80))
def test_any_text_ends(text):
  try:
    value = evaluate(text)
  except TooLarge:
    return
  assert value is None or value is UNDEFINED or isinstance(value, Fraction)


@pytest.mark.parametrize(
  'text',
  ['7', '-7', '3.14', '.5', '1/2', r'\frac{1}{2}', r'-2\frac{1}{3}', '2 1/2',
   '1e3', r'1.2\cdot10^{-3}', '50%', r'0.\overline{3}'],
)  # fmt: skip
def test_literals(text):
  assert rational.is_literal(text)


@pytest.mark.parametrize(
  'text', ['3+4', '3-4', r'3\cdot4', '2^{10}', '10!', '(7)', 'x', '7=7', '1/']
)
def test_no_literals(text):
  assert not rational.is_literal(text)
