"""Tests of restem_jax.rewards.notation."""

import time

import pytest

from restem_jax.rewards import notation


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (r'\\frac{1}{2}', r'\frac{1}{2}'),
    (r'\\{1\\}', r'\{1\}'),
    (r'1\\x', r'1\\x'),
    (r'\begin{pmatrix}1\\\frac12\end{pmatrix}',) * 2,
    (r'\\begin{pmatrix}1\\\\2\\end{pmatrix}',
     r'\begin{pmatrix}1\\2\end{pmatrix}'),
  ],
)  # fmt: skip
def test_unescaped(text, expected):
  assert notation.unescaped(text) == expected


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (r'{1\over2}', r'\frac{1}{2}'),
    (r'a {\sqrt{3} \over {x \over 2}}', r'a \frac{\sqrt{3}}{\frac{x}{2}}'),
    (r'{a} b \over c', r'\frac{{a} b}{c}'),
    (r'\{1 \over 2\}', r'\frac{\{1}{2\}}'),
    (r'n \choose k', r'\binom{n}{k}'),
    (r'0.\dot{1}2\dot3', r'0.\overline{123}'),
    (r'0.1\dot6', r'0.1\overline{6}'),
    ('0.1666...', r'0.1\overline{6}'),
    ('3.14159...', r'3.14159\dots '),
    ('2.(3)', r'2.\overline{3}'),
    ('2.5(3)', '2.5(3)'),
    ('2.(3)^2', '2.(3)^2'),
    (r'101_{\text{two}}', '101_{2}'),
    ('(101)_2', '101_2'),
    ('101 (base two)', '101_{2}'),
    ('f(2)_3', 'f(2)_3'),
    ('a_{n}', 'a_{n}'),
    ('6.02 x 10^{23}', r'6.02\cdot 10^{23}'),
    (r'\text{The answer is }42', '42'),
    (r'\text{Answer: even}', r'\text{even}'),
    ('So the final answer is: 42', '42'),
    ('answer', 'answer'),
    ('Option (B)', '(B)'),
    ('Options', 'Options'),
    (r'US\$5', r'\$5'),
    ('USC', 'USC'),
    (r'30^\circ\text{C}', r'30^\circ'),
    ('30^{\\circ} F.', '30^{\\circ}.'),
  ],
)
def test_usual(text, expected):
  assert notation.usual(text) == expected


@pytest.mark.parametrize(
  'text',
  ['1' * 300, '0.' + '3' * 298, '0.' + '12' * 149, r'\over' * 60, '{' * 300,
   r'{1\over' * 40 + '}' * 20, '(1)_' * 75, 'base' * 75, '...' * 100],
)  # fmt: skip
def test_no_text_takes_long(text):
  start = time.process_time()
  notation.usual(notation.unescaped(text))
  assert time.process_time() - start < 0.1
