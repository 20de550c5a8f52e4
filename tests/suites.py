"""Tests of programs that several test files judge programs by.

Out: one `Suite` of each kind. What is *not* here: programs.
"""

from restem_jax.rewards.sandbox.suite import Suite

ADD = Suite(
  kind='assert', tests=['assert add(1, 2) == 3', 'assert add(2, 5) == 7']
)
CALL = Suite(
  kind='call', entry_point='f', tests=[{'args': [[2, 1]], 'expected': [1, 2]}]
)
CHECK = Suite(
  kind='humaneval',
  entry_point='root',
  # As HumanEval/32: the prompt's own function is part of the check.
  setup='def line(x):\n  return x - 4\ndef root():\n  "Where it is 0."\n',
  tests='def check(candidate):\n  assert line(candidate()) == 0\n',
)
