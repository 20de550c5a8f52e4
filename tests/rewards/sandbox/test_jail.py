"""The tiers on this machine: what is chosen, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig

import pytest

from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits, Suite

ECHO = Suite(kind='stdio', tests=[{'stdin': '', 'stdout': 'SAFE\n'}])

# Starts a pool in a process of its own and runs programs; prints JSON.
RUN = """
import json, os, sys
from restem_jax.rewards.sandbox import linux, syscalls
from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits, Suite
programs = json.loads(sys.argv[1])
REFUSE = json.loads(sys.argv[2])
if REFUSE:
  import struct
  ops = [(0x20, 0, 0, 0)]
  for name in REFUSE:
    ops += [(0x15, 0, 1, syscalls.table().numbers[name]), (6, 0, 0, 0x50001)]
  ops += [(6, 0, 0, 0x7FFF0000)]
  linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
  linux.install_filter(b''.join(struct.pack('=HBBI', *o) for o in ops))
try:
  pool = SandboxPool(slots=1)
except RuntimeError as e:
  print(json.dumps({'refused': str(e)}))
  sys.exit()
suite = Suite(kind='stdio', tests=[{'stdin': '', 'stdout': 'SAFE'}])
limits = Limits(wall_s=10)
print(json.dumps({
  **pool.describe(),
  'statuses': [pool.judge(p, suite, limits).status for p in programs],
}))
pool.close()
"""

PROBES = [
  'print("SAFE")',
  'import csv, decimal; print("SAFE")',
  'try: print(open("/etc/passwd").read())\nexcept OSError: print("SAFE")',
  'import os\ntry: print(os.listdir("/tmp"))\nexcept OSError: print("SAFE")',
  'import os\ntry: open("/tmp/x", "w")\nexcept OSError: print("SAFE")',
]


def run(prefix=(), refuse=(), python=sys.executable):
  paths = [p for p in sys.path if p] + [sysconfig.get_path('purelib')]
  result = subprocess.run(
    [*prefix, python, '-B', '-c', RUN, json.dumps(PROBES), json.dumps(refuse)],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
    capture_output=True,
    text=True,
    cwd='/',
  )
  assert result.returncode == 0, result.stderr
  return json.loads(result.stdout)


def holds(report):
  assert report['statuses'] == ['pass'] * len(PROBES), report


def test_best_tier():
  holds(run())


def test_without_namespaces():
  """As under docker's default profile: Landlock takes over."""
  report = run(refuse=['unshare', 'mount'])
  if 'refused' in report:
    pytest.skip(f'no Landlock: {report["refused"]}')
  assert report['tier'] == 2 and report['landlock'] >= 1
  holds(report)


def test_refuses_without_any_jail():
  """Neither namespaces nor Landlock (its first call fails)."""
  report = run(refuse=['unshare', 'landlock_create_ruleset'])
  assert 'allow_unsafe_execution=True' in report['refused']


AS_USER = ['setpriv', '--reuid=12345', '--regid=12345', '--clear-groups']


def other_python():
  """An interpreter of this version that any user may start."""
  candidates = (sys.executable, shutil.which('python3', path='/usr/bin:/bin'))
  wanted = f'{sys.version_info[0]}.{sys.version_info[1]}'
  code = (
    'import os, sys\n'
    'there = os.access(os.path.realpath(sys.executable), os.X_OK)\n'
    'print(there and "%d.%d" % sys.version_info[:2])'
  )
  for python in filter(None, candidates):
    found = subprocess.run(
      [*AS_USER, python, '-c', code],
      capture_output=True,
      text=True,
      cwd='/',
    )
    if found.stdout.strip() == wanted:
      return python
  pytest.skip(f'no Python {wanted} that another user may start')


needs_root = pytest.mark.skipif(
  os.getuid() != 0 or not shutil.which('setpriv'),
  reason='needs root and setpriv',
)


@needs_root
@pytest.mark.parametrize('refuse', [[], ['unshare']], ids=['best', 'tier2'])
def test_as_a_normal_user(refuse):
  report = run(AS_USER, refuse, other_python())
  if 'refused' in report:
    pytest.skip(report['refused'])
  assert report['uid'] in (65534, 12345)
  holds(report)


@needs_root
def test_as_root_without_sys_admin():
  drop = '-sys_admin,-sys_ptrace'
  prefix = ['setpriv', f'--bounding-set={drop}', f'--inh-caps={drop}']
  report = run(prefix)
  assert report['uid'] != 0
  holds(report)


def test_unsafe_only_when_told():
  with pytest.raises(ValueError, match='allow_unsafe_execution'):
    SandboxPool(slots=1, tiers=(0,))


def test_unsafe_still_filters():
  """Tier 0 reads files, but starts nothing and opens no connection."""
  pool = SandboxPool(slots=1, tiers=(0,), allow_unsafe_execution=True)
  try:
    assert pool.describe()['tier'] == 0
    judge = lambda p: pool.judge(p, ECHO, Limits()).status
    assert judge('print("SAFE")') == 'pass'
    assert judge('import os; os.system("true")') == 'violation'
    assert judge('import socket; socket.socket()') == 'violation'
  finally:
    pool.close()
