"""Tests of restem_jax.rewards.answers."""

from hypothesis import given, settings, strategies as st
import pytest

from restem_jax.rewards import answers
from restem_jax.rewards.normalize import normalize


@pytest.mark.parametrize(
  ('text', 'kind', 'num_items'),
  [
    ('42', 'leaf', 0),
    ('(42)', 'leaf', 0),
    ('(x+1)(x-1)', 'leaf', 0),
    ('1 000', 'leaf', 0),
    ('1,2', 'list', 2),
    (r'1 \text{ and } 2', 'list', 2),
    (r'\pm 3', 'list', 2),
    (r'1 \pm \sqrt{19}', 'list', 2),
    (r'\{1\pm\sqrt{5},-2\}', 'set', 3),
    (r'\{7\}', 'set', 1),
    ('{1,2,3}', 'list', 3),
    ('(1,2)', 'tuple', 2),
    ('[0,1)', 'tuple', 2),
    ('1:2', 'tuple', 2),
    ('(1,2),(3,4)', 'list', 2),
    (r'(0,1)\cup(2,3)', 'union', 2),
    (r'x \in (0,1)', 'tuple', 2),
    (r'\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}', 'matrix', 4),
    (r'\left[\begin{array}{cc}1 & 2 \\3 & 4\end{array}\right]', 'matrix', 4),
    ('x=5', 'named', 1),
    ('5=x', 'named', 1),
    ('f(x)=x^2', 'named', 1),
    ('a_{37}=19', 'named', 1),
    ('(p,q)=(3,2)', 'named', 1),
    ('1<x<2', 'relation', 3),
    ('x+y=1', 'relation', 2),
    ('7=8=7', 'relation', 3),
    ('x=5=5', 'relation', 3),
    (r'\sin x=1', 'relation', 2),
    ('f(x,y)', 'leaf', 0),
  ],
)
def test_structure(text, kind, num_items):
  node = answers.parse(normalize(text))
  assert (node.kind, len(node.items)) == (kind, num_items)


@pytest.mark.parametrize(
  'text', [','.join('1' * 65), '(' * 20 + '1,2' + ')' * 20]
)
def test_too_complex(text):
  with pytest.raises(answers.TooComplex):
    answers.parse(text)


@settings(deadline=None)  # the machine may be busy
@given(st.text(alphabet='01x,;:=<>()[]{}\\ce&pm ^_+-%', max_size=120))
def test_any_text_ends(text):
  try:
    node = answers.parse(normalize(text))
  except answers.TooComplex:
    return
  assert answers.leaves(node) is not None
