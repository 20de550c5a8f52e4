"""From scored samples to training examples: filter, de-duplicate, cap.

In: samples with verdicts. Out: `selected.arrayrecord` and `select.json`, which
says what was dropped and why. What is *not* here: mixing with other data.

Keeping every right sample would let easy problems fill the training set; the
paper keeps at most 10 per problem (arXiv 2312.06585 §5). Which 10, it does not
say: here they are drawn at random by seed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import json
import logging
import random

from etils import epath

from restem_jax import shards
from restem_jax.data import examples as examples_lib
from restem_jax.records import Example, GRADER_ERROR, Sample, Scored

_log = logging.getLogger(__name__)

WEIGHTINGS = ('pooled', 'per_problem')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
  """Which samples to train on.

  Attributes:
    max_per_problem: cap on the examples of one problem.
    max_problems: cap on the problems, drawn at random; None for no cap.
    weighting: `pooled`: every example weighs 1, as eq. 3 of the paper has it;
      `per_problem`: 1 / (examples of its problem), as exact EM has it.
    seed: of the draws.
  """

  max_per_problem: int = 10
  max_problems: int | None = None
  weighting: str = 'pooled'
  seed: int = 0

  def __post_init__(self):
    if self.weighting not in WEIGHTINGS:
      raise ValueError(
        f'Selection.weighting={self.weighting!r}; write one of '
        f'{", ".join(WEIGHTINGS)}'
      )
    if self.max_per_problem < 1:
      raise ValueError(
        f'Selection.max_per_problem={self.max_per_problem}; write 1 or more'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
  """What a selection did, in numbers; `select.json`."""

  num_problems: int  # that were sampled
  num_samples: int
  num_right: int  # samples with reward 1
  num_solved: int  # problems with at least one right sample
  num_kept: int  # examples
  coverage: float  # num_solved / num_problems
  tokens: int  # target tokens of the examples
  # Why -> samples: Verdict.counted_as, 'duplicate', 'over max_per_problem',
  # 'over max_problems'.
  dropped: Mapping[str, int]
  kept: Mapping[str, int]  # problem id -> examples
  num_timeouts: int = 0  # of `dropped`, even if 0
  num_grader_errors: int = 0  # as num_timeouts; they say nothing of a sample


def normalised(text: str) -> str:
  """The text that decides whether two solutions are the same one."""
  return ' '.join(text.split())


def _rng(*key: object) -> random.Random:
  """A generator whose draws depend on the key alone, not on any order."""
  text = '\0'.join(map(str, key))
  return random.Random(hashlib.sha256(text.encode()).digest())


def choose(
  scored: Iterable[Scored], selection: Selection, iteration: int
) -> tuple[dict[str, list[Sample]], Counter[str], Counter[str]]:
  """(kept samples by problem, dropped by reason, totals)."""
  dropped: Counter[str] = Counter()
  totals: Counter[str] = Counter()
  right: dict[str, list[Sample]] = {}
  problems: set[str] = set()
  for s in scored:
    problems.add(s.sample.problem_id)
    totals['samples'] += 1
    if s.verdict.reward != 1.0:
      dropped[s.verdict.counted_as] += 1
      continue
    totals['right'] += 1
    right.setdefault(s.sample.problem_id, []).append(s.sample)
  totals['problems'], totals['solved'] = len(problems), len(right)
  kept: dict[str, list[Sample]] = {}
  for problem_id, samples in right.items():
    distinct = {}
    for sample in sorted(samples, key=lambda s: s.index):
      distinct.setdefault(normalised(sample.text), sample)
    dropped['duplicate'] += len(samples) - len(distinct)
    samples = list(distinct.values())
    if (over := len(samples) - selection.max_per_problem) > 0:
      dropped['over max_per_problem'] += over
      rng = _rng(selection.seed, iteration, problem_id)
      samples = rng.sample(samples, selection.max_per_problem)
      samples.sort(key=lambda s: s.index)
    kept[problem_id] = samples
  limit = selection.max_problems
  if limit is not None and len(kept) > limit:
    chosen = set(_rng(selection.seed, iteration).sample(sorted(kept), limit))
    for problem_id in [p for p in kept if p not in chosen]:
      dropped['over max_problems'] += len(kept.pop(problem_id))
  return kept, dropped, totals


def is_whole(path: epath.Path) -> bool:
  """Whether a file of examples is there, each record as it was written."""
  if not path.exists():
    return False
  try:
    for _ in examples_lib.read_examples(path):
      pass
  except ValueError:
    _log.warning('%s is damaged; it will be redone', path)
    return False
  return True


def select(
  directory: epath.Path,
  scored: Iterable[Scored],
  prompt_ids: Mapping[str, Sequence[int]],
  selection: Selection,
  iteration: int,
) -> Summary:
  """Writes the examples of an iteration, unless they are there.

  Args:
    directory: `iteration_XX/dataset`.
    scored: all samples of the iteration; read only if needed.
    prompt_ids: by problem id: training sees the prompt that was sampled from.
    selection: the rules.
    iteration: part of the draws' key.

  Returns:
    What was kept and dropped. `num_kept` 0 means nothing was written but
    `select.json`.
  """
  path, file = directory / 'select.json', directory / 'selected.arrayrecord'
  shards.clean(directory)
  if path.exists():
    summary = Summary(**json.loads(path.read_text()))
    if not summary.num_kept or is_whole(file):
      return summary
  kept, dropped, totals = choose(scored, selection, iteration)
  examples = []
  for problem_id, samples in kept.items():
    pooled = selection.weighting == 'pooled'
    for sample in samples:
      examples.append(
        Example(
          id=f'{problem_id}#{sample.index}',
          prompt_ids=tuple(prompt_ids[problem_id]),
          # The sampled ids: training never re-tokenises.
          target_ids=sample.token_ids,
          weight=1.0 if pooled else 1.0 / len(samples),
        )
      )
  summary = Summary(
    num_problems=totals['problems'],
    num_samples=totals['samples'],
    num_right=totals['right'],
    num_solved=totals['solved'],
    num_kept=len(examples),
    coverage=totals['solved'] / max(1, totals['problems']),
    tokens=sum(len(e.target_ids) for e in examples),
    dropped={k: n for k, n in sorted(dropped.items()) if n},
    kept={problem_id: len(samples) for problem_id, samples in kept.items()},
    num_timeouts=dropped['timeout'],
    num_grader_errors=dropped[GRADER_ERROR],
  )
  if examples:
    examples_lib.write_examples(file, examples)
  # Last: that it is there says that the examples are.
  text = json.dumps(dataclasses.asdict(summary), indent=1)
  shards.write_atomic(path, text + '\n')
  return summary


def log(summary: Summary, iteration: int) -> None:
  """Says what was selected, and what to do if it is nothing."""
  _log.info(
    'iteration %d: select: %d of %d problems solved, %d of %d samples right, '
    '%d kept; dropped: %s; %d timeouts, %d grader errors',
    *(iteration, summary.num_solved, summary.num_problems, summary.num_right),
    *(summary.num_samples, summary.num_kept, dict(summary.dropped)),
    *(summary.num_timeouts, summary.num_grader_errors),
  )
  if not summary.num_kept:
    _log.warning(
      'iteration %d: none of %d samples is right: there is nothing to train '
      'on, and the run stops here. Sample more (NUM_SAMPLES), take easier '
      'problems, or more shots',
      *(iteration, summary.num_samples),
    )
