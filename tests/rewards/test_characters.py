"""Tests of restem_jax.rewards.characters."""

import pytest

from restem_jax.rewards.characters import ascii_


@pytest.mark.parametrize(
  ('text', 'ascii_text'),
  [
    ('x-1', 'x-1'),
    ('\u22121', '-1'),
    ('x¹⁰+y⁻²', 'x^{10}+y^{-2}'),
    ('a₁₂', 'a_{12}'),
    ('7½', r'7\frac12 '),
    ('（1，2）', '(1,2)'),
    ('2×3', r'2\cdot 3'),
  ],
)
def test_one_reading(text, ascii_text):
  assert ascii_(text) == ascii_text


@pytest.mark.parametrize('text', ['\u0661', '1\u200b', '\u202e12', '１', '五'])
def test_what_stays(text):
  assert ascii_(text) == text
