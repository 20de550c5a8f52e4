import ctypes
import os

from restem_jax.rewards.sandbox import syscalls


def test_numbers_of_this_machine():
  """The kernel answers getpid and getppid under the table's numbers."""
  numbers = syscalls.table().numbers
  libc = ctypes.CDLL(None)
  assert libc.syscall(numbers['getpid']) == os.getpid()
  assert libc.syscall(numbers['getppid']) == os.getppid()


def test_known_numbers():
  x86, arm = (syscalls.ARCHITECTURES[n] for n in ('x86_64', 'aarch64'))
  assert (x86.numbers['read'], x86.numbers['clone']) == (0, 56)
  assert (arm.numbers['read'], arm.numbers['clone']) == (63, 220)
  # Calls newer than 5.0 have one number everywhere.
  for name in ('clone3', 'pidfd_open', 'landlock_restrict_self'):
    assert x86.numbers[name] == arm.numbers[name] >= 424


def test_no_number_twice():
  for machine in syscalls.ARCHITECTURES.values():
    numbers = list(machine.numbers.values())
    assert len(set(numbers)) == len(numbers)


def test_aarch64_lacks_only_the_old_calls():
  x86, arm = (syscalls.ARCHITECTURES[n] for n in ('x86_64', 'aarch64'))
  missing = set(x86.numbers) - set(arm.numbers)
  assert sorted(missing) == [
    *('access', 'alarm', 'arch_prctl', 'dup2', 'epoll_create', 'epoll_wait'),
    *('fork', 'getdents', 'getpgrp', 'lstat', 'open', 'pause', 'pipe'),
    *('poll', 'readlink', 'select', 'stat', 'time', 'vfork'),
  ]
