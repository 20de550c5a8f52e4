import pytest

from restem_jax.rewards.sandbox import compare

FLOAT = {'mode': 'float', 'rtol': 1e-4, 'atol': 1e-6}


@pytest.mark.parametrize(
  ('expected', 'actual', 'mode', 'same'),
  [
    ('1 2\n', ' 1\t2 ', {}, True),
    ('1\r\n2\r\n', '1\n\n2', {}, True),
    ('1 2', '2 1', {}, False),
    ('1 2', '1\n2', {}, False),
    ('1.0', '1.00', {}, False),
    ('yes', 'YES', {}, False),
    ('1\n', '1', {'mode': 'exact'}, False),
    ('1\n', '1\n', {'mode': 'exact'}, True),
    ('1.5', '1.50001', FLOAT, True),
    ('1.5', '1.6', FLOAT, False),
    ('2.0', '2', FLOAT, True),
    ('1e3', '1000', FLOAT, True),
    ('3', '3.0', FLOAT, False),  # an integer is expected
    ('50000000000000000', '50000000000000001', FLOAT, False),
    ('1.5', 'nan', FLOAT, False),
    ('1.5', '1_5e-1', FLOAT, False),
    ('1.5', '1.5' + '0' * 1000, FLOAT, False),
    ('1e400', '1e400', FLOAT, True),
    ('1e999', '5', FLOAT, False),
    ('1e999', '1e998', FLOAT, True),  # both past the floats
    ('-1e999', '1e999', FLOAT, False),
    ('1e999', 'inf', FLOAT, False),
    ('e', '2.7', FLOAT, False),
    ('1.5 a', '1.5', FLOAT, False),
    ('1', '1' + ' ' * 1_000_000, {}, True),
    ('1', '1' + ' ' * 2_000_000, {}, False),
  ],
  ids=lambda v: str(v)[:20],
)
def test_same_output(expected, actual, mode, same):
  found = compare.same_output(expected.encode(), actual.encode(), mode)
  assert found is same


@pytest.mark.parametrize(
  ('expected', 'actual', 'same'),
  [
    ([1, 2], (1, 2), True),
    ([1, 2], [2, 1], False),
    ([1], [1, 1], False),
    (1, True, False),
    (True, 1, False),
    (True, True, True),
    (1, '1', False),
    (0.3, 0.1 + 0.2, True),
    (0.3, 0.4, False),
    (2.0, 2, True),
    (float('nan'), float('nan'), True),
    (1.0, 10**400, False),
    (3, 3.0, True),
    (10**20, 10**20 + 1, False),
    ({'a': [1.0]}, {'a': (1,)}, True),
    ({'a': 1}, {'a': 1, 'b': 2}, False),
    (None, 0, False),
    ('a', object(), False),
  ],
)
def test_same_value(expected, actual, same):
  assert compare.same_value(expected, actual) is same
