import time

import pytest

from restem_jax.records import GRADER_ERROR, Problem
from restem_jax.rewards import base, programs
from restem_jax.rewards.code import CodeGrader, entry_point
from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits, Outcome


def problem(name, solution='', **meta):
  return Problem(id=name, question='?', answer='', solution=solution, meta=meta)


def fence(program):
  return f'```python\n{program}\n```'


ADD = problem(
  'add',
  'def add(a, b):\n  return a + b',
  kind='assert',
  tests=['assert add(1, 2) == 3'],
)
ECHO = problem(
  'echo',
  'print(input())',
  kind='stdio',
  tests=[{'stdin': 'a b\n', 'stdout': 'a b\n'}],
)
CALL = problem(
  'call',
  'def f(x):\n  return x / 3',
  kind='call',
  entry_point='f',
  tests=[{'args': [1], 'expected': 0.3333333333}],
)
CHECK = problem(
  'check',
  '  return helper(x)\n',
  kind='humaneval',
  entry_point='twice',
  prompt=(
    'def helper(x):\n  return 2 * x\n\n'
    'def twice(x: int) -> int:\n  """Twice x."""\n'
  ),
  tests='def check(candidate):\n  assert candidate(3) == 6\n',
)


@pytest.fixture(scope='module')
def pool():
  pool = SandboxPool(slots=2)
  yield pool
  pool.close()


@pytest.fixture
def grader(pool):
  grader = CodeGrader(engine=pool, limits=Limits(wall_s=5))
  yield grader
  grader.close()


def reasons(grader, problem, *programs):
  pairs = [(problem, fence(p)) for p in programs]
  return [v.reason for v in grader.grade(pairs)]


def test_kinds(grader):
  assert reasons(grader, ADD, ADD.solution, 'def add(a, b): return 0') == [
    'correct',
    'wrong',
  ]
  assert reasons(grader, ECHO, ECHO.solution, 'print(1)') == [
    'correct',
    'wrong',
  ]
  assert reasons(grader, CALL, CALL.solution, 'def f(x): return x') == [
    'correct',
    'wrong',
  ]


def test_reasons(grader):
  quick = problem(
    'quick', kind='stdio', tests=ECHO.meta['tests'], limits={'wall_s': 0.5}
  )
  assert reasons(
    grader,
    quick,
    'while True: pass',
    'x = bytearray(1 << 40)',
    'import os; os.fork()',
    'raise ValueError',
  ) == ['timeout', 'oom', 'violation', 'error']
  (verdict,) = grader.grade([(quick, 'I cannot do that.')])
  assert (verdict.reward, verdict.reason) == (0.0, 'no_answer')
  verdict = base.score(grader, ADD, fence(ADD.solution))
  assert verdict.reward == 1.0 and verdict.answer == ADD.solution + '\n'


def test_a_prompt_is_continued_or_replaced(pool):
  """HumanEval: a bare body, or the whole function again."""
  grader = CodeGrader(engine=pool, extract=programs.raw)
  whole = 'def twice(x: int) -> int:\n  return helper(x)\n'
  completions = ['  return helper(x)\n', whole, '  return helper(x) + 1\n']
  found = [v.reason for v in grader.grade((CHECK, c) for c in completions)]
  assert found == ['correct', 'correct', 'wrong']
  grader.close()


def test_equal_programs_run_once(grader):
  program = 'import time\ntime.sleep(0.2)\nprint(input())'
  start = time.monotonic()
  pairs = [(ECHO, fence(program + ' ' * n)) for n in range(20)]
  assert {v.reason for v in grader.grade(pairs)} == {'correct'}
  assert time.monotonic() - start < 2
  assert grader.counts() == {'pass': 1, 'repeated': 19}
  # The same program for another problem is another matter.
  other = problem('other', kind='stdio', tests=[{'stdin': 'a', 'stdout': 'b'}])
  assert reasons(grader, other, program) == ['wrong']


def test_streams_in_order(pool):
  """Verdicts come while pairs are still being drawn, and no more are drawn
  ahead than asked for."""
  grader = CodeGrader(engine=pool, max_in_flight=4)
  drawn = []

  def pairs():
    for n in range(40):
      drawn.append(n)
      program = f'print(input()) if {n} % 3 else print({n})'
      yield ECHO, fence(program)

  verdicts = grader.grade(pairs())
  first = next(verdicts)
  assert len(drawn) <= 4
  found = [first, *verdicts]
  assert [v.reason for v in found] == [
    'correct' if n % 3 else 'wrong' for n in range(40)
  ]
  grader.close()


def test_check_gold(grader):
  wrong = problem('wrong', 'def add(a, b): return 0', **ADD.meta)
  second = problem('second', 'x = 1', **ADD.meta, solutions=[ADD.solution])
  trivial = problem('trivial', 'x = 1', kind='assert', tests=['assert 1'])
  broken = problem('broken', 'x = 1', kind='assert', tests=['assert ('])
  empty = problem('empty', 'x = 1', kind='assert', tests=[])
  no_gold = problem('no_gold', **ADD.meta)
  odd = problem('odd', 'x = 1', kind='doctest', tests=['>>> 1'])
  good = [ADD, ECHO, CALL, CHECK, second, no_gold]
  bad = [wrong, trivial, broken, empty, odd]
  found = {p.id: why for p, why in grader.check_gold(good + bad)}
  assert found.keys() == {p.id for p in bad}
  assert found['wrong'].startswith('reference: fail')
  assert found['trivial'] == 'an empty program passes'
  assert 'SyntaxError' in found['broken']
  assert 'no tests' in found['empty']
  assert 'problem odd: kind' in found['odd']


def test_bad_meta_names_the_problem(grader):
  with pytest.raises(ValueError, match='problem nothing has no tests'):
    list(grader.grade([(problem('nothing'), fence('x = 1'))]))


def test_equivalent(grader):
  assert grader.equivalent('x = 1 \ny = 2\n', 'x = 1\ny = 2')
  assert not grader.equivalent('x = 1', 'x = 2')


class Unreliable:
  """An engine that fails on every other program."""

  concurrency = 1
  calls = 0

  def judge(self, program, suite, limits):
    self.calls += 1
    failed = self.calls % 2
    return Outcome(
      status='infra' if failed else 'pass', detail='it is gone' * failed
    )

  def describe(self):
    return {'engine': 'unreliable'}

  def close(self):
    raise AssertionError('not the grader’s to close')


def test_infrastructure_is_counted_apart():
  grader = CodeGrader(engine=Unreliable(), max_in_flight=1)
  # What failed is not remembered: the same program is judged again.
  pairs = [(ECHO, f'```python\n{p}\n```') for p in 'xxx']
  verdicts = list(grader.grade(pairs))
  assert [v.reason for v in verdicts] == ['error', 'correct', 'correct']
  assert [v.failure for v in verdicts] == ['infra: it is gone', '', '']
  assert verdicts[0].counted_as == GRADER_ERROR
  assert grader.counts() == {'infra': 1, 'pass': 1, 'repeated': 1}
  assert grader.describe() == {'engine': 'unreliable'}
  grader.close()


def test_broken_tests_are_the_graders_failure(grader):
  """Not the program's, though the reason of both is 'error'."""
  tests = problem('broken', kind='assert', tests=['assert ('])
  pairs = [(tests, fence('x = 1')), (ECHO, fence('1 / 0'))]
  broken, raised = grader.grade(pairs)
  assert (broken.reason, raised.reason) == ('error', 'error')
  assert broken.failure.startswith('broken: SyntaxError')
  assert raised.failure == ''


def test_entry_point():
  """Read off a reference; only a name that every test calls."""
  shadow = 'def sum(a, b):\n  return a + b'
  assert entry_point(shadow, ['assert sum(1, 2) == 3']) == 'sum'
  two = 'def f(x): return g(x)\ndef g(x): return x'
  assert entry_point(two, ['assert set(f(1)) == set(g(1))']) == ''
  assert entry_point(two, ['assert f(1)', 'assert g(f(2))']) == 'f'
  assert entry_point('def f(:', ['assert f(1)']) == ''


def test_a_builtin_as_the_function_asked_for(grader):
  shadow = problem(
    'sum',
    'def sum(a, b):\n  return a + b',
    kind='assert',
    tests=['assert sum(10, 15) == 25'],
  )
  assert reasons(grader, shadow, shadow.solution) == ['correct']


def test_owns_its_pool():
  grader = CodeGrader(slots=1)
  assert grader.describe()['slots'] == 1
  assert reasons(grader, ADD, ADD.solution) == ['correct']
  grader.close()
  grader.close()
