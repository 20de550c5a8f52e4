"""Generated arithmetic problems: four seeded reasoning-gym families.

In: a family, a split and a seed. Out: problems. Needs the extra
`restem_jax[quickstart]` (reasoning-gym) and no TensorFlow; the SeqIO Tasks
over these are in `data.seqio_tasks`.

A question belongs to one split for good: a hash of its words, in any order,
says which. So train, validation and test share no question, nor `4 + 3` and
`3 + 4`, under any seed and any size, and a larger train leaves test as it is.
"""

from collections.abc import Iterator, Mapping
import re
from typing import Any

from restem_jax.data import source, splits
from restem_jax.records import Problem

# Family -> the configuration of reasoning-gym's data set of that name.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
  'chain_sum': {
    'min_terms': 2,
    'max_terms': 2,
    'min_digits': 1,
    'max_digits': 2,
  },
  'products': {
    'min_terms': 2,
    'max_terms': 2,
    'min_digits': 1,
    'max_digits': 2,
  },
  'gcd': {'min_numbers': 2, 'max_numbers': 2, 'min_value': 1, 'max_value': 50},
  'leg_counting': {
    'min_animals': 1,
    'max_animals': 2,
    'min_instances': 1,
    'max_instances': 5,
  },
}

# How many of 16 equal shares of all questions each split has. In proportion to
# the usual sizes, so that small questions run out in all splits alike.
_SHARES = {'test': 6, 'validation': 3, 'train': 7}

# A split is exhausted when so many draws in a row bring nothing new.
_PATIENCE = 20_000


def split_of(question: str) -> str:
  """The split of a question; the same for all orders of its words."""
  words = re.findall(r'\w+|[-+*/]', question.casefold())
  share = splits.unit_hash(0, ' '.join(sorted(words))) * 16
  for split, width in _SHARES.items():
    if share < width:
      return split
    share -= width
  raise AssertionError('the shares do not add up to 16')


def stream(family: str, *, seed: int) -> Iterator[Problem]:
  """All problems of a family in the order of the draw, each question once.

  Ends when nothing new comes any more. Half of the sums and products have one
  digit at first; later ones are mostly of two, as the small ones are used up.

  Raises:
    ValueError: for an unknown family, or if reasoning-gym is missing.
  """
  if family not in FAMILIES:
    raise ValueError(f'no family {family!r}; write one of {list(FAMILIES)}')
  try:
    import reasoning_gym
  except ImportError as e:
    raise ValueError(
      f'the arithmetic problems are made by reasoning-gym ({e}); run:'
      f" pip install 'restem_jax[quickstart]'"
    ) from None
  # reasoning-gym seeds draw i with seed + i: neighbouring seeds would give the
  # same problems one place on, hence the hash.
  start = int(splits.unit_hash(seed, family) * 2**48)
  drawn = reasoning_gym.create_dataset(
    family, size=2**31 - 1, seed=start, **FAMILIES[family]
  )
  seen = set()
  index = last = 0
  while index - last < _PATIENCE:
    row = drawn[index]
    key = splits.normalised(row['question'])
    if key not in seen:
      seen.add(key)
      last = index
      yield Problem(
        id=f'{family}/{index}',
        question=row['question'],
        answer=str(row['answer']),
        solution=str(row['answer']),
        task=f'arithmetic_{family}',
      )
    index += 1


def problems(family: str, split: str, num: int, *, seed: int) -> list[Problem]:
  """The first `num` problems of a family that belong to a split.

  Raises:
    ValueError: if the family has fewer, besides what `stream` raises.
  """
  if split not in _SHARES:
    raise ValueError(f'no split {split!r}; write one of {source.SPLITS}')
  found: list[Problem] = []
  for problem in stream(family, seed=seed):
    if len(found) == num:
      break
    if split_of(problem.question) == split:
      found.append(problem)
  if len(found) < num:
    raise ValueError(
      f'arithmetic_{family} has {len(found)} different {split} questions,'
      f' {num} are asked for; ask for fewer'
    )
  return found
