"""The fork server outlives what it runs, and not its host."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits, Suite

ECHO = Suite(kind='stdio', tests=[{'stdin': 'x', 'stdout': 'x\n'}])
GOOD = 'print(input())'

HOST = """
import sys, threading, time
from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits, Suite
tier = int(sys.argv[1])
pool = SandboxPool(slots=1, tiers=(tier,))
echo = Suite(kind='stdio', tests=[{'stdin': '', 'stdout': ''}])
asserts = Suite(kind='assert', tests=['assert f(1) == 1'])
pool.judge('def f(x): return x', asserts, Limits())  # leaves a tester
threading.Thread(
  target=pool.judge,
  args=('while True: pass', echo, Limits(wall_s=60, cpu_s=60)),
  daemon=True,
).start()
time.sleep(0.5)
print('ready', flush=True)
time.sleep(60)
"""


def descendants(pid):
  found = []
  for child in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      fields = child.read_text().rpartition(')')[2].split()
    except OSError:
      continue
    if int(fields[1]) == pid and fields[0] != 'Z':
      found.append(int(child.parent.name))
      found += descendants(found[-1])
  return found


def alive(pids):
  left = []
  for pid in pids:
    try:
      text = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except OSError:
      continue
    if text.rpartition(')')[2].split()[0] != 'Z':
      left.append(pid)
  return left


@pytest.mark.parametrize('tier', [1, 2])
def test_nothing_outlives_a_killed_host(tier):
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  with subprocess.Popen(
    [sys.executable, '-c', HOST, str(tier)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=environment,
  ) as host:
    if host.stdout.readline() != 'ready\n':
      pytest.skip(f'no tier {tier}: {host.stderr.read()}')
    pids = descendants(host.pid)
    assert len(pids) >= 3  # server, tester, program
    host.send_signal(signal.SIGKILL)
    host.wait()
    deadline = time.monotonic() + 10
    while alive(pids) and time.monotonic() < deadline:
      time.sleep(0.05)
    assert not alive(pids)


def test_close_ends_everything():
  before = set(descendants(os.getpid()))
  pool = SandboxPool(slots=1)
  assert judge(pool, GOOD) == 'pass'
  ours = set(descendants(os.getpid())) - before
  assert ours
  pool.close()
  pool.close()
  assert not alive(ours)
  assert judge(pool, GOOD) == 'infra'


def judge(pool, program):
  return pool.judge(program, ECHO, Limits(wall_s=2)).status


HOSTILE = [
  'import os\nfor fd in range(64):\n  try: os.close(fd)\n'
  '  except OSError: pass',
  'import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)',
  'import os, signal\nos.kill(os.getppid(), signal.SIGKILL)',
  'import os, signal\nos.killpg(0, signal.SIGKILL)',
  'import fcntl, os, signal\nr, w = os.pipe()\n'
  'fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\n'
  'fcntl.fcntl(r, 10, signal.SIGKILL)\n'
  'fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nos.write(w, b"x")',
  'import threading, time\nwhile True:\n'
  '  threading.Thread(target=time.sleep, args=(9,), daemon=True).start()',
  'import os\nwhile True: os.pipe()',
]


def test_the_server_survives(pool):
  """And so do its neighbours; no descriptor is left open in the host."""
  judge(pool, GOOD), judge(pool, GOOD)
  before = len(os.listdir('/proc/self/fd'))
  servers = set(descendants(os.getpid()))
  for program in HOSTILE:
    assert judge(pool, program) not in ('pass', 'infra'), program
    assert judge(pool, GOOD) == 'pass'
  assert set(descendants(os.getpid())) == servers
  assert len(os.listdir('/proc/self/fd')) == before


def resident(pids):
  """Pages in memory, of all these processes."""
  return [
    int(pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1])
    for pid in sorted(pids)
  ]


def endure(pool, programs):
  """Descriptors and memory of host and servers, before and after."""
  asserts = Suite(kind='assert', tests=['assert f(1) == 1'])

  def some(n):
    for _ in range(n // 2):
      assert judge(pool, GOOD) == 'pass'
      outcome = pool.judge('def f(x): return x', asserts, Limits(wall_s=9))
      assert outcome.status == 'pass'

  some(100)
  servers = descendants(os.getpid())
  before = len(os.listdir('/proc/self/fd')), resident(servers)
  some(programs)
  assert set(descendants(os.getpid())) == set(servers)
  after = len(os.listdir('/proc/self/fd')), resident(servers)
  assert after[0] == before[0]
  for old, new in zip(before[1], after[1], strict=True):
    assert new - old <= 256, 'pages'  # 1 MiB


def test_endurance(fresh_pool):
  endure(fresh_pool, 200)


@pytest.mark.slow('3000 programs, 20 s')
def test_long_endurance(fresh_pool):
  endure(fresh_pool, 3000)
