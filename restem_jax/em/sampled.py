"""pass@k and maj@k: what several samples per problem say of a policy.

In: the verdicts on N samples of each problem, the grader's equivalence. Out:
`SampledReport`s. What is *not* here: drawing and grading the samples
(`evaluate`), the formulas (`statistics`).

maj@k (self-consistency, arXiv 2203.11171) puts the extracted answers of the
first k samples to a vote. Samples whose answers are equivalent, by the
grader's `equivalent` and not as strings, vote together; a sample without an
answer (none found, cut at the length limit) abstains; ties go to the answer
first seen. The winner is as right as the verdict on it was: the gold answer
has no part in the vote.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses

from restem_jax.em import statistics
from restem_jax.records import GRADER_ERROR, SampledReport, Verdict
from restem_jax.rewards.base import Grader
from restem_jax.sampling.policies import Policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledEvaluation:
  """How evaluation samples, beside the greedy answer that it always takes.

  Attributes:
    num_samples: N per problem; 0 for greedy evaluation only.
    ks: k of pass@k and maj@k, each at most N; () is 1, 2, 4, ... and N.
    temperature: of the draws, as top_k and top_p.
    top_k: 0 keeps all.
    top_p: 1 keeps all.
    splits: which splits are sampled.
  """

  num_samples: int = 0
  ks: Sequence[int] = ()
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 0.95
  splits: Sequence[str] = ('test',)

  def __post_init__(self):
    if self.num_samples < 0:
      raise ValueError(
        f'SampledEvaluation.num_samples={self.num_samples}; write 0 (greedy '
        'only) or more'
      )
    if self.num_samples and not all(
      1 <= k <= self.num_samples for k in self.ks
    ):
      raise ValueError(
        f'SampledEvaluation.ks={list(self.ks)}; write numbers from 1 to '
        f'num_samples, {self.num_samples}'
      )
    if self.temperature == 0:
      raise ValueError(
        'SampledEvaluation.temperature=0 gives N times the same sample; write '
        'e.g. 1.0, or num_samples = 0 for greedy evaluation only'
      )
    _ = self.policy

  @property
  def policy(self) -> Policy:
    """Of the draws."""
    return Policy(
      temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
    )

  @property
  def all_ks(self) -> list[int]:
    """The ks in ascending order, the default spelled out."""
    if self.ks:
      return sorted(set(self.ks))
    powers = [1 << i for i in range(self.num_samples.bit_length())]
    return sorted({k for k in powers if k <= self.num_samples}
                  | {self.num_samples})  # fmt: skip

  @property
  def folder(self) -> str:
    """Names the samples: those of other settings lie elsewhere."""
    return (
      f'sampled-n{self.num_samples}-t{self.temperature:g}-k{self.top_k}'
      f'-p{self.top_p:g}'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
  """What the samples of one problem come to."""

  pass_at: Mapping[int, float]
  maj_at: Mapping[int, bool] | None
  reasons: Counter[str]


def tally(
  verdicts: Sequence[Verdict], config: SampledEvaluation, grader: Grader
) -> Tally:
  """Counts and votes; `verdicts` by sample index, [] if it was left out."""
  ks = config.all_ks
  if not verdicts:
    return Tally(
      pass_at=dict.fromkeys(ks, 0.0),
      maj_at=dict.fromkeys(ks, False) if grader.votes else None,
      reasons=Counter(left_out=config.num_samples),
    )
  num_correct = sum(v.reason == 'correct' for v in verdicts)
  return Tally(
    pass_at={
      k: statistics.pass_at_k(len(verdicts), num_correct, k) for k in ks
    },
    maj_at=_votes(verdicts, ks, grader) if grader.votes else None,
    reasons=Counter(v.counted_as for v in verdicts),
  )


def _votes(
  verdicts: Sequence[Verdict], ks: Sequence[int], grader: Grader
) -> dict[int, bool]:
  """Whether the winner among the first k samples is right, for each k."""
  ballots = [(i, v.answer) for i, v in enumerate(verdicts) if v.answer]
  answers = [answer for _, answer in ballots]
  class_of = statistics.classes(answers, grader.equivalent)
  # Equal strings get equal verdicts, but for a grader's failure: the last.
  right = {v.answer: v.reason == 'correct' for v in verdicts if not v.failure}
  out = {}
  for k in ks:
    count = sum(i < k for i, _ in ballots)
    winner = (
      statistics.elected(answers[:count], class_of[:count]) if count else ''
    )
    out[k] = right.get(winner, False)
  return out


def report(
  tallies: Iterable[Tally], config: SampledEvaluation
) -> SampledReport:
  """Means over problems."""
  tallies = list(tallies)
  count = max(1, len(tallies))
  reasons: Counter[str] = Counter()
  for t in tallies:
    reasons += t.reasons
  votes = [t.maj_at for t in tallies if t.maj_at is not None]
  return SampledReport(
    num_samples=config.num_samples,
    temperature=config.temperature,
    top_k=config.top_k,
    top_p=config.top_p,
    pass_at={
      str(k): sum(t.pass_at[k] for t in tallies) / count for k in config.all_ks
    },
    maj_at={str(k): sum(v[k] for v in votes) / count for k in config.all_ks}
    if len(votes) == len(tallies)
    else None,
    reasons=dict(sorted(reasons.items())),
    num_timeouts=reasons['timeout'],
    num_grader_errors=reasons[GRADER_ERROR],
  )
