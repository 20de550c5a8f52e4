"""Programs run as plain `python solution.py` would."""

import pytest

from restem_jax.rewards.sandbox.suite import Limits, Suite

PROGRAMS = {
  'input': 'print(sum(map(int, input().split())))',
  'buffer': (
    'import sys\nsys.stdout.buffer.write(b"%d" % sum(map(int,'
    ' sys.stdin.buffer.read().split())))'
  ),
  'descriptor': 'print(sum(map(int, open(0).read().split())))',
  'unflushed': (
    'out = open(1, "w")\nout.write(str(sum(map(int, input().split()))))'
  ),
  'replaced': (
    'import io, sys\nsys.stdout = io.StringIO()\n'
    'print(sum(map(int, input().split())))\n'
    'sys.__stdout__.write(sys.stdout.getvalue())'
  ),
  'closed': (
    'import sys\nprint(sum(map(int, input().split())))\nsys.stdout.close()'
  ),
  'main': (
    'if __name__ == "__main__":\n  print(sum(map(int, input().split())))'
  ),
  'exit': 'print(sum(map(int, input().split())))\nexit()',
  'thread': (
    'import threading\n'
    'threading.Thread(target=lambda: print(sum(map(int,'
    ' input().split())))).start()'
  ),
  'atexit': (
    'import atexit\nx = input()\n'
    'atexit.register(lambda: print(sum(map(int, x.split()))))'
  ),
  # Exit handlers run when all threads have ended, those of a pool as well.
  'atexit after threads': (
    'import atexit, threading, time\nfound = []\n'
    'atexit.register(lambda: print(sum(found)))\n'
    'def add(): time.sleep(0.1); found.extend(map(int, input().split()))\n'
    'threading.Thread(target=add).start()'
  ),
  'executor': (
    'import concurrent.futures as c, time\n'
    'def add(): time.sleep(0.1); print(sum(map(int, input().split())))\n'
    'c.ThreadPoolExecutor(1).submit(add)'
  ),
  'main thread': (
    'import threading\nt = threading.current_thread()\n'
    'assert t is threading.main_thread() and t.is_alive()\n'
    'assert threading.active_count() == 1\n'
    'print(sum(map(int, input().split())))'
  ),
  'asyncio': (
    'import asyncio\nasync def main():\n'
    '  await asyncio.sleep(0.01)\n'
    '  print(sum(map(int, input().split())))\nasyncio.run(main())'
  ),
  'dataclass': (
    'from dataclasses import dataclass\n@dataclass\nclass P:\n  s: str\n'
    'print(sum(map(int, P(input()).s.split())))'
  ),
  'stack': (
    'import resource, sys\n'
    'resource.setrlimit(resource.RLIMIT_STACK, (1 << 25, -1))\n'
    'sys.setrecursionlimit(50000)\n'
    'def f(n): return n and 1 + f(n - 1)\n'
    'print(sum(map(int, input().split())) + f(40000) - 40000)'
  ),
  'patched': (
    'import builtins\nx = sum(map(int, input().split()))\n'
    'builtins.len = builtins.isinstance = None\nprint(x)'
  ),
}


@pytest.mark.parametrize('name', PROGRAMS)
def test_stdio(pool, name):
  suite = Suite(kind='stdio', tests=[{'stdin': '1 2\n', 'stdout': '3\n'}])
  outcome = pool.judge(PROGRAMS[name], suite, Limits(wall_s=10))
  assert outcome.status == 'pass', outcome


def test_random_is_reproducible(pool):
  program = 'import random\nprint(random.random())'
  suite = Suite(
    kind='stdio',
    tests=[{'stdin': '', 'stdout': '0.8444218515250481'}],  # random.seed(0)
  )
  assert pool.judge(program, suite, Limits()).status == 'pass'


@pytest.mark.parametrize(
  ('program', 'status', 'detail'),
  [
    ('def f(:', 'error', 'exit status 1'),
    ('\ud800', 'error', 'exit status 1'),
    ('print(3); raise ValueError', 'error', 'exit status 1'),
    ('print(3); import sys; sys.exit(4)', 'error', 'exit status 4'),
    ('import ctypes; ctypes.string_at(0)', 'error', 'SIGSEGV'),
    ('x = bytearray(1 << 40)', 'oom', 'MemoryError'),
    ('print(4)', 'fail', 'wrong output'),
    ('while True: print("x" * 9999)', 'error', ''),
    ('import os; os.fork()', 'violation', 'a forbidden system call'),
    ('import time; time.sleep(99)', 'timeout', 'wall time'),
  ],
)
def test_ends(pool, program, status, detail):
  suite = Suite(kind='stdio', tests=[{'stdin': '', 'stdout': '3\n'}])
  outcome = pool.judge(program, suite, Limits(wall_s=1, output_mib=1))
  assert outcome.status == status and detail in outcome.detail, outcome
