r"""Grades final answers against gold by mathematical equivalence.

In: (problem, completion text); out: verdicts, in order. What is *not* here:
where the answer stands in the text (`extraction`), spelling (`normalize`, `units`),
structure and exact values (`answers`, `equivalence`, `rational`), algebra (`symbolic`, which
runs in worker processes only: `math_worker`, `pool`).

Cheapest first: extract; spell canonically; equal strings; structure with
exact rationals; screen; memo; a worker with math-verify. Nine answers in ten
are decided before the screen, in this process, without algebra; no model text
gets near `eval` here or there.

An answer that costs more than its limits is no wrong answer: its reason is
'timeout' or 'oom', or 'error' with the verdict's `failure` set when a worker
died on it twice or could not do the comparison.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import concurrent.futures
import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import threading
from typing import Any

from restem_jax.records import Problem, Verdict
from restem_jax.rewards import (
  answers,
  base,
  equivalence,
  extraction,
  memo as memo_lib,
  normalize,
  pool as pool_lib,
  rational,
  screen,
  units,
)

_WORKER = 'restem_jax.rewards.math_worker'
_NEEDS = ('math_verify', 'latex2sympy2_extended', 'sympy', 'antlr4')

_INTEGER = re.compile(r'-?(?:0|[1-9][0-9]*)')
_PADDED = re.compile(r'(-?)0+([0-9]+)')
_DECIMAL = re.compile(r'-?[0-9]+\.[0-9]+')
# Not three digits behind another number than 0: those may be thousands.
_COMMA = re.compile(r'-?(?:0,[0-9]+|[0-9]+,(?![0-9]{3}$)[0-9]+)')

_Outcome = str  # one of records.REASONS; of errors 'error: why'
_Pending = concurrent.futures.Future[_Outcome]


class MathGrader:
  """Judges the final answer of a completion. See `base.Grader`.

  Equivalence of two answers is one relation, the same for grading, for
  `equivalent` and for the memo, and symmetric by construction: both sides are
  spelled the same way, and then compared as a pair in sorted order.
  """

  votes = True

  def __init__(
    self,
    *,
    extract: extraction.Extract = extraction.boxed,
    symbolic: bool = True,
    num_workers: int | None = None,
    timeout_s: float = 1.0,
    memory_limit: int = 2 << 30,
    memo_path: str | os.PathLike[str] | None = None,
    require_evaluated: bool = False,
    max_in_flight: int = 1024,
  ):
    """Starts no process: the first answer that needs algebra does.

    Args:
      extract: finds the final answer in a completion; None when it has none.
      symbolic: whether to ask math-verify where strings and exact rationals
        leave it open; else such answers are wrong.
      num_workers: worker processes; by default one per usable core.
      timeout_s: wall limit of one comparison in a worker, in seconds.
      memory_limit: address space of a worker, in bytes.
      memo_path: a JSONL file that keeps the workers' verdicts for a restart;
        by default a run gives one (`remember`).
      require_evaluated: whether a number must be given as one: then `3+4` is
        wrong where the gold is `7`. For tasks whose question is itself an
        expression, where a policy would learn to copy it.
      max_in_flight: answers `grade` holds while the first is being judged.

    Raises:
      ValueError: for `symbolic=True` without math-verify.
    """
    if symbolic:
      missing = [m for m in _NEEDS if importlib.util.find_spec(m) is None]
      if missing:
        raise ValueError(
          f'MathGrader needs {", ".join(missing)}: pip install '
          "'math-verify[antlr4_13_2]==0.9.0', or bind "
          'MathGrader.symbolic = False (exact rationals and strings only)'
        )
    if max_in_flight < 1:
      raise ValueError(
        f'MathGrader.max_in_flight = {max_in_flight}: use 1 or more'
      )
    self._extract = extract
    self._symbolic = symbolic
    self._require_evaluated = require_evaluated
    self._max_in_flight = max_in_flight
    self._memo = memo_lib.Memo(memo_path)
    self._running: dict[tuple[str, str], _Pending] = {}
    self._lock = threading.Lock()
    self._pool: pool_lib.WorkerPool | None = None
    if symbolic:
      self._pool = pool_lib.WorkerPool(
        _WORKER,
        num_workers=num_workers or len(os.sched_getaffinity(0)),
        timeout_s=timeout_s,
        memory_limit=memory_limit,
      )

  def grade(self, pairs: Iterable[tuple[Problem, str]]) -> Iterator[Verdict]:
    """Yields one verdict per (problem, completion text), in order."""
    waiting: collections.deque[_Item] = collections.deque()
    for problem, completion in pairs:
      waiting.append(self._item(problem.answer, completion))
      while waiting and (
        waiting[0].done() or len(waiting) >= self._max_in_flight
      ):
        yield waiting.popleft().verdict()
    while waiting:
      yield waiting.popleft().verdict()

  def check_gold(
    self, problems: Iterable[Problem]
  ) -> list[tuple[Problem, str]]:
    """The problems whose gold does not verify, each with the reason."""
    checks = [(p, self._check(p.answer)) for p in problems]
    bad: list[tuple[Problem, str]] = []
    for problem, check in checks:
      if not isinstance(check, str) and check.result().status != 'ok':
        # Perhaps for the load of the machine, which is lower now.
        check = self._check(problem.answer)
      reason = check if isinstance(check, str) else _unreadable(check)
      if reason:
        bad.append((problem, reason))
    return bad

  def equivalent(self, a: str, b: str) -> bool:
    """Whether two extracted answers are the same; open cases are not."""
    if units.differ(a, b):
      return False
    outcome = self._judge(_canonical(a), _canonical(b))
    return _result(outcome) == 'correct'

  def remember(self, path: str | os.PathLike[str]) -> None:
    """See `base.Grader`; a `memo_path` that was given stays."""
    if self._pool is not None and not self._memo.has_file:
      self._memo.keep_in(path)

  def describe(self) -> Mapping[str, Any]:
    """Which libraries do the algebra."""
    if not self._symbolic:
      return {'algebra': 'none'}
    return {
      m: importlib.metadata.version(m)
      for m in ('math-verify', 'latex2sympy2_extended', 'sympy')
    }

  def close(self) -> None:
    if self._pool is not None:
      self._pool.close()

  def __enter__(self) -> 'MathGrader':
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def _item(self, gold: str, completion: str) -> '_Item':
    answer = self._extract(completion)
    if answer is None or not (pred := _canonical(answer)):
      return _Item(answer='', outcome='no_answer')
    if units.differ(gold, answer):
      return _Item(answer=answer, outcome='wrong')
    gold = _canonical(gold)
    pred = _as_number(gold, pred, answer)
    if self._require_evaluated and not _evaluated(gold, pred):
      return _Item(answer=answer, outcome='wrong')
    return _Item(answer=answer, outcome=self._judge(gold, pred))

  def _judge(self, a: str, b: str) -> _Outcome | _Pending:
    """Compares two canonical answers: an outcome, or one to wait for."""
    if a == b:
      return 'correct' if a else 'wrong'
    if not a or not b:
      return 'wrong'
    if b < a:
      a, b = b, a
    try:
      same = equivalence.compare(
        answers.parse(a), answers.parse(b), equivalence.exact
      )
    except answers.TooComplex:
      return 'wrong'
    if same is not None:
      return 'correct' if same else 'wrong'
    if self._pool is None or screen.refused(a) or screen.refused(b):
      return 'wrong'
    return self._ask((a, b))

  def _ask(self, key: tuple[str, str]) -> _Outcome | _Pending:
    assert self._pool is not None
    with self._lock:
      known = self._memo.get(key) or self._running.get(key)
      if known is not None:
        return known
      pending = self._running[key] = _Pending()
    try:
      reply = self._pool.submit({'same': key})
    except BaseException:
      del self._running[key]
      raise
    reply.add_done_callback(lambda done: self._settle(key, pending, done))
    return pending

  def _settle(
    self,
    key: tuple[str, str],
    pending: _Pending,
    done: concurrent.futures.Future[pool_lib.Reply],
  ) -> None:
    try:
      outcome = _outcome(done.result())
      with self._lock:
        # A worker's own failure may not recur, a limit recurs as long as the
        # machine is as busy, a verdict always.
        if not outcome.startswith('error'):
          lasting = outcome in ('correct', 'wrong')
          self._memo.put(key, outcome, on_disk=lasting)
        del self._running[key]
      pending.set_result(outcome)
    except BaseException as e:
      self._running.pop(key, None)
      pending.set_exception(e)

  def _check(
    self, gold: str
  ) -> str | concurrent.futures.Future[pool_lib.Reply]:
    """The reason to drop a gold answer, '' for none, or one to wait for."""
    if len(gold) > extraction.MAX_CHARS:
      return f'answer of more than {extraction.MAX_CHARS} characters'
    text = _canonical(gold)
    if not text:
      return 'empty answer'
    try:
      node = answers.parse(text)
    except answers.TooComplex as e:
      return f'answer too complex: {e}'
    if any(map(_undefined, answers.leaves(node))):
      return 'undefined value'
    if self._pool is None or all(
      equivalence.exact(leaf, '0') is not None for leaf in answers.leaves(node)
    ):
      return ''
    if reason := screen.refused(text):
      return f'answer refused: {reason}'
    return self._pool.submit({'readable': text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Item:
  answer: str
  outcome: _Outcome | _Pending

  def done(self) -> bool:
    return isinstance(self.outcome, str) or self.outcome.done()

  def verdict(self) -> Verdict:
    reason, _, failure = _result(self.outcome).partition(': ')
    return base.verdict(reason, self.answer, failure)


def _canonical(answer: str) -> str:
  """The canonical spelling; '' for what is too long to be an answer."""
  if len(answer) > extraction.MAX_CHARS:
    return ''
  return normalize.normalize(answer)


def _as_number(gold: str, pred: str, written: str) -> str:
  """`005` as `5` and `2,75` as `2.75` where the gold is a plain number.

  Such a gold is no code, clock time or list. The other way round stays open: a
  gold `005` may be a code, and `2,75` two numbers.
  """
  if _INTEGER.fullmatch(gold) and (m := _PADDED.fullmatch(pred)):
    return m[1] + m[2]
  if (
    _DECIMAL.fullmatch(gold) and _COMMA.fullmatch(pred) and pred in written
  ):  # as written: with a space, `2, 75` is a list
    return pred.replace(',', '.')
  return pred


def _result(outcome: _Outcome | _Pending) -> _Outcome:
  return outcome if isinstance(outcome, str) else outcome.result()


def _evaluated(gold: str, pred: str) -> bool:
  """Whether every number of `pred` is a literal, as far as the gold's are."""
  try:
    sides = [answers.leaves(answers.parse(text)) for text in (gold, pred)]
  except answers.TooComplex:
    return True
  if not all(map(rational.is_literal, sides[0])):
    return True
  return all(map(rational.is_literal, sides[1]))


def _undefined(leaf: str) -> bool:
  try:
    return rational.evaluate(leaf) is rational.UNDEFINED
  except rational.TooLarge:
    return False


def _outcome(reply: pool_lib.Reply) -> _Outcome:
  if reply.status == 'ok':
    return 'correct' if reply.value is True else 'wrong'
  if reply.status == 'error':
    return f'error: {reply.detail or "no detail"}'
  return reply.status


def _unreadable(reply: concurrent.futures.Future[pool_lib.Reply]) -> str:
  done = reply.result()
  if done.status == 'ok':
    return '' if done.value is True else 'math-verify cannot read the answer'
  return f'{done.status} while reading the answer'
