"""What a grader is: completions in, verdicts out.

In: (problem, completion text) pairs; out: one `Verdict` each, in order. What
is *not* here: how an answer is judged (`math`, `code`), and the verdict
'truncated', which the caller sets before grading (`em.score`).

Nothing in this package imports jax: graders and their worker processes start
fast and are safe beside a process that holds an accelerator.
"""

from collections.abc import Iterable, Iterator, Mapping
import os
from typing import Any, Protocol

from restem_jax.records import Problem, REASONS, Verdict


class Grader(Protocol):
  """Judges completions against the problems' gold answers or tests.

  Attributes:
    votes: whether answers can be put to a majority vote (`equivalent`);
      programs can't: equal programs are not equal answers.
  """

  votes: bool

  def grade(self, pairs: Iterable[tuple[Problem, str]]) -> Iterator[Verdict]:
    """Yields one verdict per (problem, completion text), in order.

    Streaming: pairs are drawn as results are drawn, with a bounded number in
    flight, so `pairs` may be endless and may be produced while grading runs.
    A limit that was hit is in the reason ('timeout', 'oom'); where the grader
    itself failed, `failure` says why. It never raises for what a model wrote.
    """
    ...

  def check_gold(
    self, problems: Iterable[Problem]
  ) -> list[tuple[Problem, str]]:
    """The problems to drop, each with the reason, in the order given.

    A problem is to be dropped when its own gold does not verify: no sample of
    it could ever be rewarded, or anything could.

    Raises:
      ValueError: the grader itself failed; nothing is known of the problems.
    """
    ...

  def equivalent(self, a: str, b: str) -> bool:
    """Whether two extracted answers count as one vote. Symmetric."""
    ...

  def remember(self, path: str | os.PathLike[str]) -> None:
    """Keeps what took long to judge in a local file, for a restart.

    Called once, before anything is graded. A grader with nothing to gain
    from it does nothing.
    """
    ...

  def describe(self) -> Mapping[str, Any]:
    """What judges, and in what isolation: for the run's records."""
    ...

  def close(self) -> None:
    """Ends worker processes and closes files. May be called twice."""
    ...


def verdict(reason: str, answer: str = '', failure: str = '') -> Verdict:
  """The verdict for a reason: reward 1.0 for 'correct', else 0.0.

  `failure`: why the grader, not the completion, failed: only with 'error'.
  """
  assert reason in REASONS, reason
  assert not failure or reason == 'error', reason
  return Verdict(
    reward=float(reason == 'correct'),
    reason=reason,
    answer=answer,
    failure=failure,
  )


def score(grader: Grader, problem: Problem, completion: str) -> Verdict:
  """Grades a single completion. Batches are faster: see `Grader.grade`."""
  return next(iter(grader.grade([(problem, completion)])))
