"""Estimates and their uncertainty.

In: counts, votes. Out: rates, intervals, the vote's outcome. What is *not*
here: counting, and when two answers are the same.
"""

from collections import Counter
from collections.abc import Callable, Sequence
import math

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson_interval(num_correct: int, num: int) -> tuple[float, float]:
  """95 % interval of a proportion (Wilson 1927, JASA 22(158):209-212).

  Unlike p +- 1.96 s it stays inside [0, 1] and is not empty at 0 or 1.
  """
  if not 0 <= num_correct <= num:
    raise ValueError(f'{num_correct} right of {num} is not a proportion')
  if num == 0:
    return (0.0, 1.0)
  p, z2 = num_correct / num, _Z95 * _Z95
  centre = p + z2 / (2 * num)
  spread = _Z95 * math.sqrt(p * (1 - p) / num + z2 / (4 * num * num))
  scale = 1 + z2 / num
  # At p = 0 or 1 it ends there; rounding must not say otherwise.
  return (
    max(0.0, (centre - spread) / scale) if p > 0 else 0.0,
    min(1.0, (centre + spread) / scale) if p < 1 else 1.0,
  )


def pass_at_k(num: int, num_correct: int, k: int) -> float:
  """Probability that one of k samples is right, unbiased from n >= k of them.

  1 - C(n - c, k) / C(n, k): the share of the subsets of k samples with a right
  one among them (Chen et al. 2021, arXiv 2107.03374, eq. 1).

  Args:
    num: n samples drawn.
    num_correct: c of them right.
    k: at most n.

  Raises:
    ValueError: unless 0 <= c <= n and 1 <= k <= n.
  """
  if not (0 <= num_correct <= num and 1 <= k <= num):
    raise ValueError(f'pass@{k} of {num_correct} right ones in {num} samples')
  return 1 - math.comb(num - num_correct, k) / math.comb(num, k)


def classes(
  answers: Sequence[str], same: Callable[[str, str], bool]
) -> list[int]:
  """The class of each answer: 0, 1, ... in the order first seen.

  Equal strings are one class without asking; another string joins the first
  class whose representative, its first member, is the `same`. So n answers of
  d spellings in c classes cost at most d * c comparisons, not n^2.
  """
  of_spelling: dict[str, int] = {}
  representatives: list[str] = []
  for answer in answers:
    if answer in of_spelling:
      continue
    for number, representative in enumerate(representatives):
      if same(representative, answer):
        of_spelling[answer] = number
        break
    else:
      of_spelling[answer] = len(representatives)
      representatives.append(answer)
  return [of_spelling[answer] for answer in answers]


def elected(answers: Sequence[str], class_of: Sequence[int]) -> str:
  """The winning answer: the commonest spelling of the largest class.

  Ties, of classes and of spellings, go to the one first seen.

  Raises:
    ValueError: nobody voted.
  """
  if not answers:
    raise ValueError('a vote without a ballot')
  # most_common is stable, and a Counter keeps the order of insertion.
  ((winner, _),) = Counter(class_of).most_common(1)
  spellings = Counter(
    answer
    for answer, number in zip(answers, class_of, strict=True)
    if number == winner
  )
  return spellings.most_common(1)[0][0]
