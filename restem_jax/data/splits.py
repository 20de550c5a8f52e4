"""Cuts the splits of a source so that no question leaks from one to another.

In: lists of problems per split. Out: `Splits`, checked. A missing validation
or test split is carved out of train by a hash of the id, so that adding rows
never moves the others from one split to another; a question that is in two
splits stays in the one that is evaluated. Nothing is read here.
"""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import logging
import unicodedata

from restem_jax.data.source import SPLITS, Splits
from restem_jax.records import Problem

_logger = logging.getLogger(__name__)


def unit_hash(seed: int, text: str) -> float:
  """A number in [0, 1) that depends on `seed` and `text` only."""
  digest = hashlib.sha256(f'{seed}:{text}'.encode()).digest()
  return int.from_bytes(digest[:6], 'big') / 2**48


def normalised(question: str) -> str:
  """The question as compared between splits: case and spacing ignored."""
  return ' '.join(unicodedata.normalize('NFC', question).casefold().split())


def check_ids(problems: Iterable[Problem], where: str) -> None:
  """Raises ValueError if two problems share an id."""
  seen = set()
  for problem in problems:
    if problem.id in seen:
      raise ValueError(
        f'{where}: the id {problem.id!r} is there twice; ids must be unique'
        f' over all splits: write e.g. train/{problem.id}, or leave ids out'
      )
    seen.add(problem.id)


def carve(
  by_split: Mapping[str, Sequence[Problem]],
  *,
  name: str,
  seed: int,
  validation_fraction: float,
  test_fraction: float,
) -> dict[str, list[Problem]]:
  """Fills a missing validation or test split with a share of train.

  A train problem whose hash lies in [0, test_fraction) is for test, in
  [test_fraction, test_fraction + validation_fraction) for validation: which one
  depends on its id and `seed` alone, not on what other rows there are.
  """
  for label, share in (
    ('validation_fraction', validation_fraction),
    ('test_fraction', test_fraction),
    ('their sum', validation_fraction + test_fraction),
  ):
    if not 0 <= share <= 1:
      raise ValueError(
        f'{name}: validation_fraction={validation_fraction},'
        f' test_fraction={test_fraction}: {label} must be within 0 to 1'
      )
  out = {split: list(by_split.get(split, ())) for split in SPLITS}
  train, out['train'] = out['train'], []
  for problem in train:
    u = unit_hash(seed, problem.id)
    split = 'train'
    if u < test_fraction:
      split = 'test'
    elif u < test_fraction + validation_fraction:
      split = 'validation'
    out['train' if split in by_split else split].append(problem)
  for split in ('validation', 'test'):
    if split not in by_split and out[split]:
      _logger.info(
        '%s: no %s split given; %d of %d train problems are used for it',
        name,
        split,
        len(out[split]),
        len(train),
      )
  return out


def _drop(
  problems: Sequence[Problem], forbidden: set[str], name: str, split: str
) -> list[Problem]:
  """Leaves out the problems whose question is in `forbidden`."""
  kept = [p for p in problems if normalised(p.question) not in forbidden]
  if len(kept) < len(problems):
    _logger.warning(
      '%s: dropped %d of %d %s problems: the same question is held out in'
      ' another split',
      name,
      len(problems) - len(kept),
      len(problems),
      split,
    )
  return kept


def _questions(*splits: Iterable[Problem]) -> set[str]:
  return {normalised(p.question) for split in splits for p in split}


def allot(
  total: int, sizes: Sequence[int], rates: Sequence[float]
) -> list[int]:
  """Shares `total` out by rate, none above its size; exact, or all there is.

  What a small task cannot give goes to the others; the few that rounding
  leaves over go to the highest rates, the earlier task first.
  """
  counts = [0] * len(sizes)
  total = min(total, sum(s for s, r in zip(sizes, rates, strict=True) if r > 0))
  while (left := total - sum(counts)) > 0:
    room = [i for i, s in enumerate(sizes) if s > counts[i] and rates[i] > 0]
    scale = left / sum(rates[i] for i in room)
    exact = {i: rates[i] * scale for i in room}
    given = {i: min(int(exact[i]), sizes[i] - counts[i]) for i in room}
    if not any(given.values()):
      order = sorted(room, key=lambda i: (-rates[i], i))
      given = dict.fromkeys(order[:left], 1)
    for i, count in given.items():
      counts[i] += count
  return counts


def _limit(
  problems: Sequence[Problem],
  num: int | None,
  rates: Mapping[str, float] | None,
  label: str,
) -> tuple[Problem, ...]:
  """The first `num` problems, or the first of each task by its rate."""
  if num is None:
    return tuple(problems)
  if num < 0:
    raise ValueError(
      f'{label}={num}: write a number from 0 on, or None for all'
    )
  if len(problems) < num:
    _logger.warning(
      '%s=%d, but there are %d: all are used', label, num, len(problems)
    )
  if rates is None:
    return tuple(problems[:num])
  by_task = {task: [] for task in rates}
  for problem in problems:
    by_task[problem.task].append(problem)
  sizes = [len(group) for group in by_task.values()]
  counts = allot(num, sizes, list(rates.values()))
  # Sorted by relative position, so that any prefix has all tasks in proportion.
  taken = [
    ((k + 0.5) / count, i, group[k])
    for i, (group, count) in enumerate(
      zip(by_task.values(), counts, strict=True)
    )
    for k in range(count)
  ]
  return tuple(p for _, _, p in sorted(taken, key=lambda t: t[:2]))


def assemble(
  by_split: Mapping[str, Sequence[Problem]],
  *,
  name: str,
  num_train: int | None,
  num_validation: int | None,
  num_test: int | None,
  num_shots: int,
  rates: Mapping[str, float] | None = None,
) -> Splits:
  """Cuts the shots, drops leaks and applies the limits.

  Args:
    by_split: problems by split, each in the order in which they are to be
      taken; perhaps 'shots', from which a task's shots then come.
    name: the source, for messages.
    num_train: at most so many train problems; None for all.
    num_validation: likewise.
    num_test: likewise.
    num_shots: how many problems of each task, the first ones of 'shots', else
      of train, are held out of all splits for few-shot prompts.
    rates: task -> rate, to share the limits out; None takes the first ones.

  Raises:
    ValueError: for an id that occurs twice or a negative number.
  """
  test = list(by_split['test'])
  validation = _drop(
    by_split['validation'], _questions(test), name, 'validation'
  )
  train = _drop(by_split['train'], _questions(test, validation), name, 'train')
  given = _drop(
    by_split.get('shots', ()), _questions(test, validation), name, 'shots'
  )
  check_ids([*train, *validation, *test, *given], name)
  if num_shots < 0:
    raise ValueError(f'{name}: num_shots={num_shots}: write 0 or more')
  shots = []
  for task in sorted({p.task for p in [*train, *given]}):
    own = [p for p in given if p.task == task]
    own = own or [p for p in train if p.task == task]
    shots += own[:num_shots]
  held_out = {p.id for p in shots}
  train = [p for p in train if p.id not in held_out]
  train = _drop(train, _questions(shots), name, 'train')
  return Splits(
    train=_limit(train, num_train, rates, f'{name}: num_train'),
    validation=_limit(
      validation, num_validation, rates, f'{name}: num_validation'
    ),
    test=_limit(test, num_test, rates, f'{name}: num_test'),
    shots=tuple(shots),
  )
