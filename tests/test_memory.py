"""Freed memory goes back to the system."""

import os
import platform
import subprocess
import sys

import jax
import pytest

# Frees blocks of 4 MiB with small ones between them, after one of 20 MiB has
# taught malloc not to map them; prints how many of 400 MiB stay, and how many
# of these after a trim.
_FREES = """
import ctypes
from restem_jax import memory
memory.return_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def block(size):
  at = libc.malloc(ctypes.c_size_t(size))
  ctypes.memset(at, 1, size)
  return at
def resident():
  with open('/proc/self/status') as lines:
    return next(int(x.split()[1]) for x in lines if x.startswith('VmRSS'))
libc.free(block(20 << 20))
before = resident()
large = []
for _ in range(100):
  large.append(block(4 << 20))
  block(1 << 10)
for at in large[:-1]:
  libc.free(at)
print((resident() - before) >> 10)
memory.trim()
print((resident() - before) >> 10)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason="glibc's malloc only"
)
@pytest.mark.parametrize('told', [True, False])
def test_freed_memory_goes_back_to_the_system(told):
  # 32 MiB is what the threshold rises to by itself, at most.
  mine = {} if told else {'MALLOC_MMAP_THRESHOLD_': str(32 << 20)}
  out = subprocess.run(
    [sys.executable, '-c', _FREES],
    env=os.environ | mine,
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  freed, trimmed = map(int, out.split())
  assert (freed < 40) == (told and jax.__version_info__ >= (0, 12)), out
  assert trimmed < 40, out
