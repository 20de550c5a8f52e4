"""Tests of restem_jax.rewards.equivalence: what needs no algebra."""

from hypothesis import given, settings, strategies as st
import pytest

from restem_jax.rewards import answers, equivalence
from restem_jax.rewards.normalize import normalize


def same(a, b):
  return equivalence.compare(
    answers.parse(normalize(a)),
    answers.parse(normalize(b)),
    equivalence.exact,
  )


@pytest.mark.parametrize(
  ('a', 'b', 'truth'),
  [
    ('42', '42.0', True),
    ('0.5', r'\frac{1}{2}', True),
    ('1/3', '0.333', False),
    ('1/3', '0.3333333333', False),
    (r'50\%', '50', True),
    (r'50\%', '0.5', True),
    (r'50\%', '5', False),
    ('50', '0.5', False),
    ('1,2', '2, 1', True),
    ('1,2', r'\{2,1\}', True),
    ('1,2', '1,2,3', False),
    ('1,2', '1,3', False),
    ('1,2,2', '2,1', True),
    ('3,-3', r'\pm 3', True),
    ('1,2', '(1,2)', False),
    ('(1,2)', '(2,1)', False),
    ('(1,2)', '[1,2]', False),
    ('(1,2)', r'\{1,2\}', False),
    ('7', r'\{7\}', False),
    ('7', '7,7', False),
    (r'(0,1)\cup(2,3)', r'(2,3)\cup(0,1)', True),
    (r'(0,1)\cup(2,3)', r'(0,1)\cup(2,4)', False),
    ('x=5', '5', True),
    ('x=5', 'y=5', False),
    ('AB=4,CD=5', '4,5', True),
    ('AB=4,CD=5', '5,4', False),
    ('x=-1, x=2', '2, -1', True),
    ('a=4,-8', '-8,4', True),
    ('7', '7=8=7', False),
    ('7', '7=7', False),
    ('3', '1=2=3', False),
    ('0', '3x-y+13=0', False),
    ('1<x<2', '(1,2)', True),
    ('1<x<2', '2>x>1', True),
    (r'x\ge3', r'[3,\infty)', True),
    (r'x\ge3', r'(3,\infty)', False),
    (r'x\ge3', r'x\le3', False),
    (r'3\le x', r'x\ge3', True),
    ('1:2', '1:3', False),
    ('1010_2', '1010', False),
    ('1010_2', '10', False),
    ('1010_2', '1010_{2}', True),
    ('1010_2', '1010_3', False),
    ('1_000_000', '1', False),
    ('1_000_000', '1000000', False),
    ('A', 'a', False),
    ('A', 'B', False),
    ('Monday', r'\text{monday}', True),
    ('even', 'odd', False),
    ('even', '2', False),
    ('1', r'\frac{0}{0}', False),
    ('0', r'\frac{0}{0}', False),
    ('0.0000001', '0.0000002', False),
    ('1.0000001', '1.0000004', False),
    ('10^{-20}', '10^{-21}', False),
    ('1/2004!', '1/2006!', False),
    (r'\frac{2^{2005}+1}{3\cdot2^{2006}}', r'\frac{1}{3\cdot2^{2006}}', False),
    (r'\emptyset', r'\{\}', True),
    (r'\emptyset', '0', False),
    (r'\begin{pmatrix}1&2\\3&4\end{pmatrix}',
     r'\begin{bmatrix} 1.0 & 2 \\ 3 & 4 \end{bmatrix}', True),
    (r'\begin{pmatrix}1\\2\end{pmatrix}',
     r'\begin{pmatrix}1&2\end{pmatrix}', False),
    (r'\sqrt{8}', r'2\sqrt{2}', None),
    (r'(\sqrt{8},1)', r'(2\sqrt{2},1)', None),
    (r'(\sqrt{8},1)', r'(2\sqrt{2},2)', False),
    ('x+y=1', 'y+x=1', None),
  ],
)  # fmt: skip
def test_pairs(a, b, truth):
  assert same(a, b) is truth
  assert same(b, a) is truth


_numbers = st.sampled_from(
  ['1', '2', '0.5', r'\frac{1}{2}', '-3', '1.0', '7', 'x', r'\sqrt{2}']
)
_texts = st.recursive(
  _numbers,
  lambda inner: st.one_of(
    st.lists(inner, min_size=2, max_size=3).map(','.join),
    st.lists(inner, min_size=2, max_size=3).map(
      lambda items: f'({",".join(items)})'
    ),
    st.lists(inner, min_size=1, max_size=3).map(
      lambda items: rf'\{{{",".join(items)}\}}'
    ),
    inner.map(lambda x: f'y={x}'),
    inner.map(lambda x: f'z<{x}'),
  ),
  max_leaves=6,
)


@settings(deadline=None)  # the machine may be busy
@given(_texts, _texts)
def test_symmetric(a, b):
  assert same(a, b) is same(b, a)


@settings(deadline=None)  # the machine may be busy
@given(_texts)
def test_reflexive(a):
  assert same(a, a) is True
