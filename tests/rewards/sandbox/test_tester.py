"""Tests against programs: what passes, and what must not."""

import time

import pytest
from suites import ADD

from restem_jax.rewards.sandbox.suite import Limits, Suite

CHECK = Suite(
  kind='humaneval',
  tests=(
    'def check(candidate):\n'
    '  for n in range(10):\n'
    '    assert candidate(n, n) == 2 * n\n'
  ),
  entry_point='add',
)
CALLS = Suite(
  kind='call',
  tests=[
    {'args': [1, 2], 'expected': 3},
    {'args': [0.1, 0.2], 'expected': 0.3},
  ],
  entry_point='Solution.add',
)
METHOD = 'class Solution:\n  def add(self, a, b):\n    return a + b'


def judge(pool, program, suite, wall_s=5.0):
  return pool.judge(program, suite, Limits(wall_s=wall_s)).status


@pytest.mark.parametrize(
  ('suite', 'right', 'wrong'),
  [
    (ADD, 'def add(a, b): return a + b', 'def add(a, b): return a - b'),
    (CHECK, 'def add(a, b): return a + b', 'def add(a, b): return None'),
    (CALLS, METHOD, METHOD.replace('+', '-')),
  ],
  ids=['assert', 'humaneval', 'call'],
)
def test_kinds(pool, suite, right, wrong):
  assert judge(pool, right, suite) == 'pass'
  assert judge(pool, wrong, suite) == 'fail'
  assert judge(pool, 'x = 1', suite) == 'error'
  assert judge(pool, 'def f(:', suite) == 'error'
  assert judge(pool, right, suite) == 'pass'


CHEATS = {
  'equal to all': (
    'class A:\n  def __eq__(s, o): return True\n  __ne__ = __eq__\n'
    '  __hash__ = None\ndef add(a, b): return A()'
  ),
  'int subclass': (
    'class I(int):\n  def __eq__(s, o): return True\n  __hash__ = None\n'
    'def add(a, b): return I(0)'
  ),
  'mock': 'from unittest.mock import ANY\ndef add(a, b): return ANY',
  'frames': (
    'import sys\ndef add(a, b):\n  f = sys._getframe()\n  while f:\n'
    '    for d in (f.f_locals, f.f_globals):\n'
    '      for v in list(d.values()):\n'
    '        if isinstance(v, dict) and "expected" in v: return v["expected"]\n'
    '        if isinstance(v, list) and v and "assert" in str(v[0]): return 3\n'
    '    f = f.f_back\n  return 0'
  ),
  'heap': (
    'import gc\ndef add(a, b):\n'
    '  return 3 if any("assert add" in o or b"assert add" in o'
    ' for o in gc.get_objects() if isinstance(o, (str, bytes))) else 0'
  ),
  'sys.exit': 'import sys\nsys.exit(0)',
  'os._exit': 'import os\ndef add(a, b): os._exit(0)',
  'print and exit': 'print("PASS")\nraise SystemExit(0)',
  'exit in call': 'def add(a, b): raise SystemExit(0)',
  'AssertionError': 'def add(a, b): raise AssertionError',
  'builtins': (
    'import builtins\nbuiltins.AssertionError = ValueError\n'
    'builtins.compile = builtins.exec = lambda *a: None\n'
    'def add(a, b): return 0'
  ),
  'answers ahead': (
    'import json, os\ndef add(a, b):\n'
    '  for n in (3, 7):\n'
    '    m = json.dumps({"r": "", "v": n}).encode()\n'
    '    os.write(3, len(m).to_bytes(4, "little") + m)\n  return 0'
  ),
  'stolen handle': (
    'import json, os, builtins\ndef add(a, b):\n'
    '  return type("H", (), {"_key": 0})()'
  ),
  'asks the tests': (
    'import json, os\ndef add(a, b):\n'
    '  m = json.dumps({"q": "1", "o": "getattr",'
    ' "a": [{"h": 0}, "__globals__"]}).encode()\n'
    '  os.write(3, len(m).to_bytes(4, "little") + m)\n'
    '  return os.read(3, 65536).decode()'
  ),
}


@pytest.mark.parametrize('name', CHEATS)
@pytest.mark.parametrize('suite', [ADD, CHECK], ids=['assert', 'humaneval'])
def test_cheats(pool, suite, name):
  assert judge(pool, CHEATS[name], suite) in ('fail', 'error')


def test_only_the_entry_point_shadows_a_builtin(pool):
  program = 'def sorted(x): return 0\ndef f(x): return x'
  tests = ['assert sorted(f([2, 1])) == sorted([1, 2])']
  assert judge(pool, program, Suite(kind='assert', tests=tests)) == 'pass'
  program = 'def sorted(x): return 0\ndef f(x): return []'
  assert judge(pool, program, Suite(kind='assert', tests=tests)) == 'fail'
  shadow = Suite(
    kind='assert', tests=['assert sum(1, 2) == 3'], entry_point='sum'
  )
  assert judge(pool, 'def sum(a, b): return a + b', shadow) == 'pass'


def test_a_bare_except_does_not_hide_the_end(pool):
  """A test that expects any exception is not met by dying."""
  tests = ['try:\n  f(-1)\n  assert False\nexcept:\n  pass']
  suite = Suite(kind='assert', tests=tests)
  assert judge(pool, 'def f(x): raise KeyError', suite) == 'pass'
  assert judge(pool, 'import os\ndef f(x): os._exit(0)', suite) == 'error'


def test_objects_of_the_program(pool):
  program = (
    'class Node:\n  def __init__(self, v): self.v, self.next = v, None\n'
    '  def __str__(self): return f"<{self.v}>"\n'
    'def last(n):\n  while n.next: n = n.next\n  return n\n'
    'def count(n):\n  i = n\n  while True:\n    yield i\n    i += 1\n'
  )
  setup = 'a = Node(1)\na.next = Node(2)'
  tests = [
    'assert last(a).v == 2',
    'assert last(a) == a.next and last(a) != a',
    'assert str(last(a)) == "<2>"',
    'assert isinstance(a, Node)',
    'assert list(itertools.islice(count(5), 3)) == [5, 6, 7]',
  ]
  suite = Suite(kind='assert', tests=tests, setup=setup)
  assert judge(pool, program, suite) == 'pass'


def test_functions_of_the_tests(pool):
  """A program may call what a test hands it, and gets nothing else."""
  suite = Suite(
    kind='assert',
    tests=['assert f(lambda x: x * 2, 4) == 9', 'assert f(abs, -4) == 5'],
  )
  assert judge(pool, 'def f(g, x): return g(x) + 1', suite) == 'pass'
  spy = 'def f(g, x): return g.__globals__'
  assert judge(pool, spy, suite) == 'error'


def test_broken_tests_are_not_the_programs_fault(pool):
  for suite in (
    Suite(kind='assert', tests=['assert f(']),
    Suite(kind='assert', tests=[]),
    Suite(kind='call', tests=[], entry_point='f'),
    Suite(kind='stdio', tests=[]),
    Suite(
      kind='humaneval', tests='def check(candidate): pass', entry_point='f'
    ),
  ):
    assert judge(pool, 'def f(): pass', suite) == 'broken', suite


def test_the_budget_is_for_all_calls(pool):
  program = 'import time\ndef add(a, b):\n  time.sleep(0.3)\n  return a + b'
  start = time.monotonic()
  assert judge(pool, program, CHECK, wall_s=1.0) == 'timeout'
  assert time.monotonic() - start < 2.5


def test_values_that_keep_the_tests_busy(pool):
  """Integers that collide: building the set takes the tests hours."""
  # Its server's module is a program's to patch, in its own process.
  hostile = (
    'from restem_jax.rewards.sandbox import wire\n'
    'wire.pack = lambda v, refer: {"s": ['
    '{"i": hex(k * (2**61 - 1))} for k in range(200000)]}\n'
    'def add(a, b): return 0\n'
  )
  start = time.monotonic()
  assert judge(pool, hostile, ADD, wall_s=1.0) == 'timeout'
  assert time.monotonic() - start < 5
  assert judge(pool, 'def add(a, b): return a + b', ADD) == 'pass'


def test_draws_do_not_depend_on_the_programs_before(fresh_pool):
  """What tests draw is the same for every program, on one tester."""
  suite = Suite(
    kind='assert', setup='import random', tests=['assert f(random.random())']
  )
  program = 'def f(x): raise ValueError(f"drawn {x}")'
  outcomes = [fresh_pool.judge(program, suite, Limits()) for _ in range(3)]
  assert all('drawn 0.' in outcome.detail for outcome in outcomes), outcomes
  assert len({outcome.detail for outcome in outcomes}) == 1, outcomes
