"""When freed memory goes back to the system.

In: nothing. Out: less resident memory. What is *not* here: what a program is
computed to take (`sampling.programs`, `em.precompile`). Without effect where
the C library is not glibc, whose malloc keeps what is freed.
"""

import ctypes
import os


def return_large_blocks() -> None:
  """Has malloc give back at once what it freed, from 1 MiB up.

  XLA's CPU products in bf16 (from jax 0.12 on) leave hundreds of MiB in its
  pools otherwise, and lose about 5 % of their speed to this; those of earlier
  versions leave little and would lose a third (docs/performance.md). Without
  effect if MALLOC_MMAP_THRESHOLD_ is set.
  """
  import jax  # here: a mistake on the command line is told without it

  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  mine = 'MALLOC_MMAP_THRESHOLD_' not in os.environ
  if mallopt is not None and mine and jax.__version_info__ >= (0, 12):
    mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD of malloc.h


def trim() -> None:
  """Has malloc give back now whatever it holds; takes well under a second.

  For where one kind of work ends and another begins: a training step leaves
  1 to 2 GB that a sampling engine has no use for (docs/performance.md).
  """
  malloc_trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if malloc_trim is not None:
    malloc_trim(0)
