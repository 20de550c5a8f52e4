"""Tests of restem_jax.rewards.screen."""

import pytest

from restem_jax.rewards import screen
from restem_jax.rewards.normalize import normalize


@pytest.mark.parametrize(
  'text',
  ['42', r'\frac{1}{\sqrt{2}}', 'x^2+2x+1', '(x+y+z)^{12}', '2^{2005}',
   r'e^{i\pi}', r'\log_2 3', r'\frac{(n+1)!}{2}', r'\binom{10}{3}',
   'a_{37}', r'2^{x^{2}}', r'\sum_{k=1}^{n} k^2', '1<x<2',
   r'\begin{pmatrix}1&2\\3&4\end{pmatrix}', r'\sqrt{2+\sqrt{2+\sqrt{2}}}'],
)  # fmt: skip
def test_passes(text):
  assert screen.refused(normalize(text)) == ''


@pytest.mark.parametrize(
  'text',
  ['9**9**9**9', '(10^9)!', '10000000!', r'\binom{1000000000}{500000000}',
   '2^{2^{2^{2^{2^{2}}}}}', '10^{10^{10}}', r'\sin(10^{10^{10}})',
   'x^{x^{x^{x^x}}}', r'\Gamma(10^6)', r'\Gamma(1000000)', '1.0e-99999999',
   '2^{100000}', '9' * 50, '(' * 40 + '1' + ')' * 40, '1' + '+1' * 200,
   '2^' * 50 + '2', '().__class__.__base__.__subclasses__()',
   "open('/tmp/x','w')", "__import__('os').system('id')", 'x.evalf()',
   r'\input{/etc/passwd}', r'\write18{touch /tmp/x}', '\x00', '\u0661',
   '1\u200b', 'a;b"c', 'x@y', 'x`id`', "f'(x)", '1 2', '0x7fffffff',
   r'\sum_{k=1}^{100000}k', '((9!)!)!'],
)  # fmt: skip
def test_refuses(text):
  assert screen.refused(normalize(text))
