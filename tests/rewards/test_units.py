r"""Which unit an answer names, and which answers name different ones."""

import pytest

from restem_jax.rewards import units


@pytest.mark.parametrize(
  ('text', 'name'),
  [
    ('5', ''),
    (r'5\text{ cm}', 'centimeter'),
    (r'5\,\mathrm{cm}^2', 'centimeter'),
    (r'5\text{ square centimeters}', 'centimeter'),
    (r'5\text{ m}', 'meter'),
    ('5 m', ''),  # may be a product
    ('5m', ''),
    ('5 hours', 'hour'),
    (r'\frac{1}{2}\text{ hrs}.', 'hour'),
    (r'60\text{ miles per hour}', 'mile hour'),
    ('60 mph', 'mile hour'),
    (r'\$5', 'dollar'),
    (r'\$1,000.50', 'dollar'),
    (r'$5$', ''),
    (r'30^\circ', 'degree'),
    ('30°', 'degree'),
    (r'5\text{ marbles}', ''),
    (r'5\text{ red feet}', ''),
    (r'x\text{ cm}', ''),
  ],
)
def test_unit(text, name):
  assert units.unit(text) == name


@pytest.mark.parametrize(
  ('a', 'b', 'differ'),
  [
    (r'5\text{ hours}', r'5\text{ minutes}', True),
    (r'5\text{ hours}', '5', False),
    (r'5\text{ hours}', '5 hr', False),
    (r'\$5', r'5\text{ cents}', True),
    (r'30^\circ', r'30\text{ radians}', True),
    (r'5\text{ inches}', r'5\text{ in}^2', False),
    (r'5\text{ marbles}', r'5\text{ cm}', False),
  ],
)
def test_differ(a, b, differ):
  assert units.differ(a, b) is differ
  assert units.differ(b, a) is differ
