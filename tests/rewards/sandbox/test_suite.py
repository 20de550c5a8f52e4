import pytest

from restem_jax.rewards.sandbox.suite import Suite


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'kind': 'doctest', 'tests': []}, 'stdio, call, assert, humaneval'),
    ({'kind': 'assert', 'tests': 'assert f()'}, 'must be a list'),
    ({'kind': 'humaneval', 'tests': []}, 'defines check'),
    ({'kind': 'call', 'tests': []}, 'entry_point'),
    ({'kind': 'stdio', 'tests': [{'stdin': ''}]}, "needs 'stdout'"),
    ({'kind': 'stdio', 'tests': ['1']}, 'must be an object'),
    (
      {'kind': 'call', 'entry_point': 'f', 'tests': [{'expected': 1}]},
      "needs 'args'",
    ),
    (
      {'kind': 'call', 'entry_point': 'f', 'tests': [{'args': []}]},
      "needs 'expected'",
    ),
    ({'kind': 'assert', 'tests': [{1, 2}]}, 'plain JSON'),
    (
      {'kind': 'stdio', 'tests': [], 'compare': {'mode': 'close'}},
      'tokens, exact, float',
    ),
  ],
)
def test_says_what_to_write(fields, message):
  with pytest.raises(ValueError, match=message):
    Suite(**fields)


def test_payload_is_equal_for_equal_suites():
  a = Suite(kind='assert', tests=['assert f(1)'], entry_point='f')
  b = Suite(kind='assert', tests=['assert f(1)'], entry_point='f')
  c = Suite(kind='assert', tests=['assert f(2)'], entry_point='f')
  assert a.payload == b.payload != c.payload
