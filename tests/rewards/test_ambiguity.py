"""Tests of restem_jax.rewards.ambiguity."""

from hypothesis import given, settings, strategies as st
import pytest

from restem_jax.rewards.ambiguity import ambiguous


@pytest.mark.parametrize(
  'text',
  [
    '2/3x',
    r'2\div3x',
    '-1/2x+3',
    '1/-2x',
    'x/2y',
    '1/xy',
    'a/b(c+d)',
    '6/2(1+2)',
    '1/(2)x',
    r'1/2\sqrt{3}',
    r'1/2\frac{1}{3}',
    r'1/\sqrt{2}x',
    r'1/\sqrt[3]{2}x',
    r'1/\frac{2}{3}x',
    r'2/3\pi',
    r'1/2^{n}x',
    r'1/3!x',
    r'1/a_{1}b',
    r'1/2\log_{2}3',
    r'1/\sin x\cos x',
    r'1/\sin(x)y',
    r'\frac{1/2x}{3}',
    r'\sqrt{1/2x}',
    r'2^{1/2x}',
    r'\ln2/2',
    r'\log_{2}3x/4',
    r'\log x^{2}\div2',
    r'3+\ln2/2',
  ],
)
def test_two_readings(text):
  assert ambiguous(text)


@pytest.mark.parametrize(
  'text',
  [
    '',
    '42',
    '1/2',
    '-1/2',
    '1/-2',
    'x/2',
    '2x/3',
    '(2/3)x',
    '2/(3x)',
    r'\frac{2}{3}x',
    r'2/3\cdot x',
    r'x/\sqrt{2}',
    r'\pi/3',
    '1/2+x',
    '1/2-x',
    'x^{2}/4+y^{2}/9',
    '1/2/3',
    '5/3!',
    '1/2^{n}',
    '1/2%',
    r'1/0.\overline{3}',
    r'1/\sin x',
    r'1/\sin2x',
    r'1/\sin^{2}x',
    r'1/\log_{2}3',
    r'\cos\pi/3',
    r'\ln(2)/2',
    r'\ln\frac{2}{3}',
    r'\log_{2}3+1/2',
    r'|x|/2',
    '(1/2,3]',
    r'1/2\text{ cup}',
    r'\begin{pmatrix}1/2&x\\1/3\\y\end{pmatrix}',
    '05/12',
  ],
)
def test_one_reading(text):
  assert not ambiguous(text)


@settings(deadline=None)  # the machine may be busy
@given(
  st.lists(
    st.sampled_from(
      [
        '/',
        '/',
        '\\div',
        '\\ln',
        '\\frac',
        '\\sqrt',
        '\\sin',
        '(',
        ')',
        '[',
        ']',
        '{',
        '}',
        '^',
        '_',
        '!',
        '2',
        'x',
        '\\pi',
        '-',
        '|',
        '\\',
      ]
    )
  ).map(''.join)
)
def test_any_text_ends(text):
  assert ambiguous(text) in (True, False)
