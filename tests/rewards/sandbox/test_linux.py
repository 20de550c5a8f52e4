import os
import subprocess
import sys

import pytest

from restem_jax.rewards.sandbox import linux, syscalls


def test_error_names_the_call():
  numbers = syscalls.table().numbers
  with pytest.raises(OSError, match='close: Bad file descriptor'):
    linux.syscall('close', numbers['close'], 9999)


def test_syscall_result():
  numbers = syscalls.table().numbers
  assert linux.syscall('getpid', numbers['getpid']) == os.getpid()


def run(code):
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  return result.stdout


def test_filter_names_its_process():
  """A filter that refuses kill but for one id, in a process of its own."""
  code = (
    'import os, struct\n'
    'from restem_jax.rewards.sandbox import linux, syscalls\n'
    'n = syscalls.table().numbers["kill"]\n'
    'ops = [(0x20, 0, 0, 0), (0x15, 0, 3, n), (0x20, 0, 0, 16),'
    ' (0x15, 1, 0, 0x7FFFFFF1), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]\n'
    'program = b"".join(struct.pack("=HBBI", *o) for o in ops)\n'
    'linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)\n'
    'linux.ProcessFilter(program, 0x7FFFFFF1).install(os.getpid())\n'
    'os.kill(os.getpid(), 0)\n'
    'try: os.kill(os.getppid(), 0)\n'
    'except PermissionError as e: print(e)\n'
  )
  assert 'Operation not permitted' in run(code)


def test_filter_is_in_force():
  """A filter that refuses getppid with EPERM (1), in a process of its own."""
  code = (
    'import os, struct\n'
    'from restem_jax.rewards.sandbox import linux, syscalls\n'
    'n = syscalls.table().numbers["getppid"]\n'
    'ops = [(0x20, 0, 0, 0), (0x15, 0, 1, n), (6, 0, 0, 0x50001),'
    ' (6, 0, 0, 0x7FFF0000)]\n'
    'linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)\n'
    'linux.install_filter(b"".join(struct.pack("=HBBI", *o) for o in ops))\n'
    'try: linux.syscall("getppid", n)\n'
    'except PermissionError as e: print(e)\n'
  )
  assert 'getppid: Operation not permitted' in run(code)
