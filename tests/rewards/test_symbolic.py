"""Tests of restem_jax.rewards.symbolic, in this process."""

import pytest

from restem_jax.rewards import symbolic
from restem_jax.rewards.normalize import normalize


@pytest.mark.parametrize(
  ('a', 'b'),
  [
    (r'\sqrt{8}', r'2\sqrt2'),
    (r'\frac{1}{\sqrt2}', r'\frac{\sqrt2}{2}'),
    (r'\sqrt{5+2\sqrt6}', r'\sqrt2+\sqrt3'),
    (r'\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}', '1'),
    ('(x+1)(x-1)', 'x^2-1'),
    ('(x+1)^{100}(x-1)^{100}', '(x^2-1)^{100}'),
    (r'\sin^2 x+\cos^2 x', '1'),
    (r'\frac{\sin x}{1+\cos x}', r'\tan\frac{x}{2}'),
    (r'\log_2 3\cdot\log_3 4', '2'),
    (r'\cos 20^\circ\cdot\cos 40^\circ\cdot\cos 80^\circ', r'\frac18'),
    (r'e^{i\pi}', '-1'),
    ('(1+i)^2', '2i'),
    ('2^{n+1}', r'2\cdot 2^n'),
    (r'\binom{n}{2}', r'\frac{n(n-1)}{2}'),
    ('n!', 'n(n-1)!'),
    ('0.5x', r'\frac{x}{2}'),
    ('x^{0.5}', r'\sqrt x'),
    (r'\sqrt{x^2}', '|x|'),
    (r'x\sqrt{y^2+1}', r'\sqrt{1+y^2}x'),
    ('rR', 'Rr'),
    ('f(x)+g(x)', 'g(x)+f(x)'),
    ('y-1=2x', 'y=2x+1'),
    ('x^2/4+y^2/3=1', 'x^2/16+y^2/12=1/4'),
    ('x+y<3', '3>y+x'),
    ('x<1', '-x>-1'),
  ],
)
def test_same(a, b):
  a, b = normalize(a), normalize(b)
  assert symbolic.same(a, b)
  assert symbolic.same(b, a)


@pytest.mark.parametrize(
  ('a', 'b'),
  [
    # Differences that rounding hides, however small.
    (r'\pi', '3.14159265358979'),
    (r'\pi', r'\pi+10^{-60}'),
    (r'\sqrt2', r'\sqrt2+\frac{1}{2004!}'),
    (r'10^{-20}\pi', r'10^{-21}\pi'),
    ('10^{-20}x', '10^{-21}x'),
    (r'e^{-1000}', r'e^{-1001}'),
    (r'\sqrt{17}', '4.123105625617661'),
    ('1.0000001x', '1.0000004x'),
    (r'\frac{x}{2004!}', r'\frac{x}{2006!}'),
    # Letters: case, index, name.
    ('Ax', 'ax'),
    ('A+a', '2a'),
    ('E^2', 'e^2'),
    ('x_1', 'x_2'),
    ('x', 'y'),
    ('f(x)', 'f(y)'),
    # Equal at some points only.
    ('x', r'\sqrt{x^2}'),
    ('x+|y|', 'x+y'),
    (r'\sqrt{(x-5)^2}', '5-x'),
    (r'\lfloor x\rfloor', 'x'),
    # Infinite, undefined, unreadable.
    ('0', r'0\cdot\infty'),
    (r'\infty', '1'),
    (r'\infty', r'-\infty'),
    (r'\frac{x}{0}', r'\frac{y}{0}'),
    ('x+', 'x'),
    # Relations.
    ('3x-y+13=0', '0'),
    ('x+y=1', '1'),
    ('x+y=1', 'x+y=2'),
    ('x+y<1', 'x+y>1'),
    ('x+y<1', 'x+y=1'),
    ('0=0', '1=1'),
    (r'\frac{\pi}{4}', '45'),
    ('3+4i', '3-4i'),
    ('(x+1)^{1000}', 'x'),
  ],
)
def test_not_same(a, b):
  a, b = normalize(a), normalize(b)
  assert not symbolic.same(a, b)
  assert not symbolic.same(b, a)


@pytest.mark.parametrize('text', ['x^2+1', r'2\pi r', 'y=2x', 'f(x)', 'AB'])
def test_readable(text):
  assert symbolic.readable(normalize(text))


@pytest.mark.parametrize('text', ['x+', r'\frac{x}{0}', r'3 mph \approx', ')('])
def test_unreadable(text):
  assert not symbolic.readable(normalize(text))
