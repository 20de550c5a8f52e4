"""Tests of restem_jax.rewards.normalize."""

from hypothesis import given, settings, strategies as st
import pytest

from restem_jax.rewards.normalize import normalize


@pytest.mark.parametrize(
  ('text', 'canonical'),
  [
    ('-12', '-12'),
    ('$42$', '42'),
    (r'\( 42 \)', '42'),
    (r'\[ 42 \].', '42'),
    (r'\boxed{42}', '42'),
    ('1,000', '1000'),
    ('1{,}000', '1000'),
    (r'1\,000', '1000'),
    (r'12,\! 345,\! 678', '12345678'),
    ('x = 1,000', 'x=1000'),
    ('32, 349', '32,349'),  # a list
    ('1 2', '1 2'),
    ('-5', '-5'),
    ('\u22125', '-5'),
    (r'\dfrac{1}{2}', r'\frac{1}{2}'),
    (r'\frac12', r'\frac{1}{2}'),
    (r'\frac1{72}', r'\frac{1}{72}'),
    (r'\frac{\sqrt6}2', r'\frac{\sqrt{6}}{2}'),
    (r'\frac\pi 2', r'\frac{\pi}{2}'),
    (r'\sqrt[3]2', r'\sqrt[3]{2}'),
    (r'\left( 1, 2 \right]', '(1,2]'),
    (r'2 \times 3', r'2\cdot3'),
    ('2**10', '2^{10}'),
    ('x^10', 'x^{10}'),
    (r'7\text{ dollars}', '7'),
    (r'15\mbox{ cm}^2', '15'),
    ('125 miles', '125'),
    (r'\$7', '7'),
    (r'50\%', '50%'),
    ('28 percent', '28%'),
    (r'90^\circ', '90'),
    (r'\text{(C)}', '(C)'),
    (r'1 \text{ and } 2', '1,2'),
    ('6 or 8', '6,8'),
    ('x=6 or x=8', 'x=6;x=8'),
    (r'x \leq 3', r'x\le3'),
    (r'\{\}', r'\emptyset'),
    ('+3', '3'),
    (r'1 & 2 \\ 3 & 4', r'1&2\\3&4'),
    (r'\sin b', r'\sin b'),
    ('no  solution.', 'no solution'),
    ('', ''),
  ],
)
def test_spelling(text, canonical):
  assert normalize(text) == canonical


@pytest.mark.parametrize(
  ('a', 'b'),
  [
    ('5 million', '5'),
    (r'5\text{ million}', '5'),
    (r'7\text{ is wrong}', '7'),
    (r'7\text{ or }8', '7'),
    ('1010_2', '1010'),
    ('1_000_000', '1'),
    ('1 2', '12'),
    ('0.5', '5'),
    ('-5', '5'),
    ('5!', '5'),
    ("f'(x)", 'f(x)'),
    ('\u0661', '1'),
    ('1\u200b0', '10'),
  ],
)
def test_what_stays_apart(a, b):
  assert normalize(a) != normalize(b)


def test_degrees_inside_a_function_become_radians():
  assert normalize(r'\sin 30^\circ') == r'\sin(\frac{30\pi}{180})'


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=300))
def test_any_text_has_a_spelling(text):
  assert isinstance(normalize(text), str)


@settings(deadline=None)  # the machine may be busy
@given(st.integers())
def test_integers_keep_their_value(n):
  assert normalize(f'{n:,}') == str(n)
  assert normalize(f' ${n}$. ') == str(n)
