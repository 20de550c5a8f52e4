"""The nouns of the system, and how they are written to disk.

In and out: one frozen dataclass per noun; JSONL is read and written with
`read_jsonl` / `to_json`. What is *not* here: shards, checksums and atomic
renames (`restem_jax.shards`), token arrays on devices (`training.batches`).

A problem travels through the spine as

  Problem -> Sample -> Scored -> Example -> (packed) Batch -> EvalReport
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import gzip
import json
from typing import Any, TypeVar

from etils import epath

# How a rollout ended. 'length' (the limit was hit) is never rewarded.
FINISHES = ('eos', 'stop', 'length')

# Why a verdict is what it is (DESIGN §7).
REASONS = (
  'correct',
  'wrong',
  'no_answer',
  'timeout',
  'oom',
  'violation',
  'error',
  'truncated',
)
# Where verdicts are counted, those that a grader failed to give are apart from
# 'error', which is a program's own.
GRADER_ERROR = 'grader_error'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
  """A question whose answer can be checked.

  Example: `Problem(id='chain_sum/17', question='4 + 3 =', answer='7')`.
  """

  id: str  # unique within the run; part of the key of every random draw
  question: str
  answer: str  # the gold final answer, as the grader expects it
  solution: str = ''  # a human solution (training target); '' when none
  task: str = ''  # the SeqIO task, or the file's stem: picks shots and tables
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """One rollout of the policy on a problem, as sampled."""

  problem_id: str
  index: int  # 0..N-1 within the problem
  iteration: int
  seed: int
  text: str  # decoded and trimmed at the stop string
  token_ids: tuple[int, ...]  # all sampled ids, the stop's own included
  logprobs: tuple[float, ...]  # nats, untempered policy; one per token id
  finish: str  # one of FINISHES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """What a grader says of one completion."""

  reward: float  # 0.0 or 1.0
  reason: str  # one of REASONS
  answer: str = ''  # what was extracted; '' when nothing was
  # Why the *grader* failed, '' when it did not. If it did, the reason is
  # 'error', the reward 0, and neither says anything of the completion.
  failure: str = ''

  @property
  def counted_as(self) -> str:
    """The key under which reports count it: the reason or GRADER_ERROR."""
    return GRADER_ERROR if self.failure else self.reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
  """A sample with its verdict."""

  sample: Sample
  verdict: Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """One training example: token ids of prompt and target, and its weight."""

  id: str  # e.g. 'chain_sum/17#3' (problem id, sample index)
  prompt_ids: tuple[int, ...]
  target_ids: tuple[int, ...]  # carries the loss; ends with EOS or the stop
  weight: float = 1.0  # f(reward) times the per-example weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledReport:
  """What N samples of each problem say of a policy.

  A problem that could not be sampled (too long) counts as not solved.
  """

  num_samples: int  # N per problem
  temperature: float
  top_k: int  # 0: all
  top_p: float
  pass_at: Mapping[str, float]  # k -> unbiased pass@k, mean over problems
  # k -> accuracy of the vote among the first k samples; None where answers
  # can't be put to a vote (programs), which is not the same as 0.
  maj_at: Mapping[str, float] | None
  reasons: Mapping[str, int]  # Verdict.counted_as -> samples
  num_timeouts: int  # of `reasons`, even if 0
  num_grader_errors: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalReport:
  """Accuracy of one policy on one task and split, over all its problems."""

  task: str
  split: str
  num_problems: int
  num_correct: int
  accuracy: float  # num_correct / num_problems
  interval: tuple[float, float]  # 95 %, Wilson score
  # Verdict.counted_as -> count; 'left_out': the prompt was too long to sample.
  reasons: Mapping[str, int]
  num_timeouts: int = 0  # of `reasons`, even if 0
  num_grader_errors: int = 0
  sampled: SampledReport | None = None  # None: greedy only


R = TypeVar('R', Problem, Sample, Verdict, Example, EvalReport)


def to_json(record: Any) -> str:
  """One line of JSON (no newline) for a record; keys in field order."""
  return json.dumps(
    dataclasses.asdict(record), ensure_ascii=False, separators=(',', ':')
  )


def from_dict(kind: type[R], row: Mapping[str, Any]) -> R:
  """Rebuilds a record from the dict that its JSON line holds."""
  values: dict[str, Any] = {
    k: tuple(v) if isinstance(v, list) else v for k, v in row.items()
  }
  if kind is EvalReport and values.get('sampled') is not None:
    values['sampled'] = SampledReport(**values['sampled'])
  return kind(**values)


def read_jsonl(path: epath.PathLike) -> Iterator[tuple[int, Any]]:
  """Yields (line number from 1, parsed value) of a .jsonl or .jsonl.gz file.

  Lines end at newlines only: U+2028 and its kin occur inside strings, which
  rules out `str.splitlines`. Blank lines are skipped.

  Raises:
    ValueError: for a line that is not JSON, naming file and line.
  """
  path = epath.Path(path)
  with path.open('rb') as raw, contextlib.ExitStack() as stack:
    lines = raw
    if path.suffix == '.gz':
      lines = stack.enter_context(gzip.open(raw))
    for number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      try:
        yield number, json.loads(line)
      except (ValueError, RecursionError) as e:
        raise ValueError(f'{path}, line {number}: not JSON ({e})') from None
