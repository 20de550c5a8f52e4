"""The dtype that torch is faster in on this machine, for the peers beside it.

In: nothing. Out: float32 or bfloat16. What is *not* here: models, whose own
pass takes 100 times as long in bfloat16 on a CPU without AVX-512.
"""

import time

import torch


def faster_dtype() -> torch.dtype:
  """By a matrix product of an MLP's shapes."""
  return min((torch.float32, torch.bfloat16), key=_product_seconds)


def _product_seconds(dtype: torch.dtype) -> float:
  """Best of 3, the first not timed."""
  x, w = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
  times = []
  for _ in range(4):
    start = time.perf_counter()
    x @ w
    times.append(time.perf_counter() - start)
  return min(times[1:])
