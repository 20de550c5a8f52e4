"""Estimates and their uncertainty.

In: counts. Out: rates and intervals. What is *not* here: counting.
"""

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
