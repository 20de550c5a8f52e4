import concurrent.futures
import os
import pathlib
import signal
import time

import pytest

from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits, Suite

ECHO = Suite(kind='stdio', tests=[{'stdin': 'x', 'stdout': 'x\n'}])


def children():
  path = pathlib.Path('/proc/self/task')
  return {
    int(pid)
    for task in path.glob('*/children')
    for pid in task.read_text().split()
  }


def test_describe(pool):
  report = pool.describe()
  assert report['engine'] == 'local' and report['tier'] in (1, 2)
  assert report['slots'] == pool.concurrency == 2
  assert report['uid'] != 0


def test_many_threads(pool):
  """More threads than slots, two kinds of suites, each its own outcome."""
  suites = [
    Suite(kind='assert', tests=[f'assert f({n}) == {n}'], entry_point='f')
    for n in range(3)
  ]

  def judge(n):
    if n % 4 == 3:
      program = 'print(input())' if n % 8 == 3 else 'print(1)'
      return pool.judge(program, ECHO, Limits(wall_s=10)).status
    program = 'def f(x): return x' if n % 2 else 'def f(x): return -1'
    return pool.judge(program, suites[n % 4], Limits(wall_s=10)).status

  with concurrent.futures.ThreadPoolExecutor(6) as threads:
    statuses = list(threads.map(judge, range(48)))
  assert statuses == [
    'pass' if n % 8 == 3 or n % 4 == 1 else 'fail' for n in range(48)
  ]


def test_a_dead_server_is_replaced():
  before = children()
  pool = SandboxPool(slots=1)
  try:
    (server,) = children() - before
    assert pool.judge('print(input())', ECHO, Limits()).status == 'pass'
    os.kill(server, signal.SIGKILL)
    time.sleep(0.3)  # in tier 1 the server proper ends after its parent
    assert pool.judge('print(input())', ECHO, Limits()).status == 'pass'
    assert not {server} & children()
  finally:
    pool.close()


def test_preload():
  pytest.importorskip('numpy')
  pool = SandboxPool(slots=1, preload=['numpy'])
  try:
    program = (
      'import numpy as np\n'
      'print(input() * int(np.linalg.det(np.eye(2))), np.arange(3).sum())'
    )
    suite = Suite(kind='stdio', tests=[{'stdin': 'x', 'stdout': 'x 3\n'}])
    outcome = pool.judge(program, suite, Limits(wall_s=10))
    assert outcome.status == 'pass', outcome
  finally:
    pool.close()


def test_time_is_shared_by_all_tests(pool):
  suite = Suite(
    kind='stdio', tests=[{'stdin': 'x', 'stdout': 'x\n'} for _ in range(9)]
  )
  program = 'import time; time.sleep(0.3); print(input())'
  outcome = pool.judge(program, suite, Limits(wall_s=1.0))
  assert outcome.status == 'timeout' and outcome.wall_s < 2
