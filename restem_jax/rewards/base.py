"""What a grader is: completions in, verdicts out.

In: (problem, completion text) pairs; out: one `Verdict` each, in order. What
is *not* here: how an answer is judged (`math`, `code`), and the verdict
'truncated', which the caller sets before grading (`em.score`).

Nothing in this package imports jax: graders and their worker processes start
fast and are safe beside a process that holds an accelerator.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from restem_jax.records import Problem, REASONS, Verdict


class Grader(Protocol):
  """Judges completions against the problems' gold answers or tests."""

  def grade(self, pairs: Iterable[tuple[Problem, str]]) -> Iterator[Verdict]:
    """Yields one verdict per (problem, completion text), in order.

    Streaming: pairs are drawn as results are drawn, with a bounded number in
    flight, so `pairs` may be endless and may be produced while grading runs.
    A grader that fails on a pair says so in the reason ('timeout', 'oom',
    'error'); it never raises for what a model wrote.
    """
    ...

  def check_gold(
    self, problems: Iterable[Problem]
  ) -> list[tuple[Problem, str]]:
    """The problems to drop, each with the reason, in the order given.

    A problem is to be dropped when its own gold does not verify: no sample of
    it could ever be rewarded, or anything could.
    """
    ...

  def equivalent(self, a: str, b: str) -> bool:
    """Whether two extracted answers count as one vote. Symmetric."""
    ...

  def describe(self) -> Mapping[str, Any]:
    """What judges, and in what isolation: for the run's records."""
    ...

  def close(self) -> None:
    """Ends worker processes and closes files. May be called twice."""
    ...


def verdict(reason: str, answer: str = '') -> Verdict:
  """The verdict for a reason: reward 1.0 for 'correct', else 0.0."""
  assert reason in REASONS, reason
  return Verdict(
    reward=float(reason == 'correct'), reason=reason, answer=answer
  )


def score(grader: Grader, problem: Problem, completion: str) -> Verdict:
  """Grades a single completion. Batches are faster: see `Grader.grade`."""
  return next(iter(grader.grade([(problem, completion)])))
