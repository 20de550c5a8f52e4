"""Against a server on this machine that speaks SandboxFusion's API."""

import base64
import dataclasses
import json
import time

import fusion_server
import pytest

from restem_jax.records import Problem
from restem_jax.rewards import remote
from restem_jax.rewards.code import CodeGrader
from restem_jax.rewards.remote import SandboxFusion
from restem_jax.rewards.sandbox.suite import Limits, Suite


@pytest.fixture
def server(tmp_path):
  with fusion_server.serving(tmp_path) as server:
    yield server


@pytest.fixture
def engine(server):
  url = f'http://127.0.0.1:{server.server_port}'
  return SandboxFusion(url, attempts=3, backoff_s=0.01)


ECHO = Suite(
  kind='stdio',
  tests=[
    {'stdin': 'one', 'stdout': 'one\n'},
    {'stdin': 'é', 'stdout': 'é\n'},
  ],
)
CALLS = Suite(
  kind='call',
  entry_point='Solution.f',
  tests=[
    {'args': [[1, 2]], 'expected': [2, 1]},
    {'args': [[10**30]], 'expected': [10**30]},
  ],
)
LIMITS = Limits(wall_s=10)


def method(body):
  return f'class Solution:\n  def f(self, x):\n    {body}'


def test_stdio(engine, server):
  assert engine.judge('print(input())', ECHO, LIMITS).status == 'pass'
  assert engine.judge('print("one")', ECHO, LIMITS).status == 'fail'
  assert engine.judge('print(input()); 1/0', ECHO, LIMITS).status == 'error'
  assert engine.judge('raise MemoryError', ECHO, LIMITS).status == 'oom'
  short = Limits(wall_s=0.3)
  sleepy = 'import time; time.sleep(5)'
  assert engine.judge(sleepy, ECHO, short).status == 'timeout'
  # Expected values never leave this machine.
  assert all('stdout' not in json.dumps(r) for r in server.requests)


def test_calls(engine):
  for body, status in (
    ('return x[::-1]', 'pass'),
    ('return tuple(x[::-1])', 'pass'),
    ('return x', 'fail'),
    ('print(x); return set(x)', 'fail'),
    ('return object()', 'fail'),
    ('raise ValueError', 'error'),
    ('raise MemoryError', 'oom'),
    ('import os; os._exit(0)', 'error'),
  ):
    assert engine.judge(method(body), CALLS, LIMITS).status == status, body
  assert engine.judge('x = 1', CALLS, LIMITS).status == 'error'
  assert engine.judge('def f(:', CALLS, LIMITS).status == 'error'


FAILURES = [
  500,
  504,
  b'not json',
  b'[' * 100_000,
  b'{"status": "SandboxError", "message": "x", "run_result": null}',
  b'{}',
]


def test_failures_are_retried(engine, server):
  for failure in FAILURES:
    server.failures = [failure, failure]
    outcome = engine.judge('print(input())', ECHO, LIMITS)
    assert outcome.status == 'pass', failure


def test_then_counted_apart(engine, server):
  server.failures = [500] * 3
  outcome = engine.judge('print(input())', ECHO, LIMITS)
  assert (outcome.status, outcome.detail) == ('infra', 'HTTP 500')
  assert len(server.requests) == 3


def test_no_server():
  engine = SandboxFusion('http://127.0.0.1:9', attempts=2, backoff_s=0.01)
  assert engine.judge('x', ECHO, LIMITS).status == 'infra'


def test_with_the_grader(engine, server):
  """Same problems and verdicts as with the local engine."""
  grader = CodeGrader(engine=engine)
  problem = Problem(
    id='echo',
    question='',
    answer='',
    solution='print(input())',
    meta={'kind': 'stdio', 'tests': list(ECHO.tests)},
  )
  assert grader.check_gold([problem]) == []
  server.failures = [500] * 3
  (verdict,) = grader.grade([(problem, '```python\nprint(2)\n```')])
  assert verdict.reason == 'error' and verdict.failure.startswith('infra: ')
  assert grader.counts()['infra'] == 1
  # Of a reference that could not be run nothing is known: no problem is
  # dropped for it.
  server.failures = [500] * 6  # of the reference and of an empty program
  other = dataclasses.replace(problem, id='other')
  with pytest.raises(ValueError, match=r'other.*HTTP 500.*run again'):
    grader.check_gold([other])
  assert grader.check_gold([other]) == []
  grader.close()


def test_literal_asserts(engine):
  suite = Suite(
    kind='assert',
    tests=[
      'assert f((1, 2), {3}) == {1, 2, 3}',
      "assert f([], {'a'}) == {'a'}\r\n",
    ],
  )
  judge = lambda program: engine.judge(program, suite, LIMITS).status
  assert judge('def f(x, y): return set(x) | y') == 'pass'
  assert judge('def f(x, y): return list(x) + list(y)') == 'fail'
  assert judge('def f(x, y): return set(range(10**4))') == 'fail'
  assert judge('def f(x, y): return {0: set(x) | y}') == 'fail'
  assert judge('def g(x): return x') == 'error'


COLLIDING = [{'i': hex(i * (2**61 - 1))} for i in range(2000)]
PREFIXED = [{'t': [*range(1000, 1090), n]} for n in COLLIDING]
FLOATS = [float(i * (2**61 - 1)) for i in range(1, 2000)]
REPLIES = {
  'sets': ([{'s': COLLIDING}] * 80, 'fail'),
  'sets of tuples': ([{'s': PREFIXED}] * 5, 'fail'),
  'dicts': ([{'d': [[n, 0] for n in COLLIDING]}] * 80, 'fail'),
  'floats': ([{'s': FLOATS}] * 80, 'fail'),
  'in dict values': ([{'d': [[0, {'s': COLLIDING}], [1, 0]]}] * 80, 'fail'),
  'long numbers': ([{'s': [{'i': hex((2**61 - 1) << 400_000)}, 0]}], 'fail'),
  'right': ([{'s': [2, 1]}, {'d': [[0, {'s': [4, 3]}], [1, 0]]}], 'pass'),
  'right but one': ([{'s': [2, 1]}, {'d': [[0, {'s': [4]}], [1, 0]]}], 'fail'),
}


@pytest.mark.parametrize('name', REPLIES)
def test_numbers_chosen_to_collide(name):
  """A reply is read in the host: no more is hashed than was expected."""
  value, status = REPLIES[name]
  suite = Suite(
    kind='assert', tests=['assert f(1) == [{1, 2}, {0: {3, 4}, 1: 0}]']
  )
  calls = remote._calls(suite)
  encoded = base64.b64encode(json.dumps([{'v': value}]).encode()).decode()
  assert len(encoded) <= remote._MAX_REPLY
  start = time.thread_time()
  assert remote._compare_answers(calls, encoded)[0] == status
  assert time.thread_time() - start < 2.0


LOCAL = [
  'assert f(1)',
  'assert set(f(1)) == {1}',
  'assert f(g(1)) == 1',
  'assert f(x=1) == 1',
  'assert f(1) == 1 == 1',
  'assert f(',
]


@pytest.mark.parametrize('test', LOCAL)
def test_says_what_needs_the_local_engine(engine, test):
  suite = Suite(kind='assert', tests=[test])
  with pytest.raises(ValueError, match='use SandboxPool'):
    engine.judge('def f(x): return x', suite, LIMITS)


def test_says_what_an_url_is():
  with pytest.raises(ValueError, match='http://host:port'):
    SandboxFusion('localhost:8080')


def test_outputs_that_the_server_would_cut(engine):
  suite = Suite(kind='stdio', tests=[{'stdin': '', 'stdout': 'x' * 200_000}])
  assert engine.judge('print("x" * 200000)', suite, LIMITS).status == 'broken'
