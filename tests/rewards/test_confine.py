"""What a confined worker can't do, asked of real workers."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import pytest

from restem_jax.rewards import forkserver, pool as pool_lib

# Tries what it is told and says how that went.
WORKER = textwrap.dedent(
  """
  import ctypes, os, signal, socket, subprocess, sys
  from restem_jax.rewards import confine, forkserver
  from restem_jax.rewards.sandbox import linux

  FILE = sys.argv[1]
  WITHOUT = sys.argv[2]  # layers that this machine is to lack
  CHILD = os.getppid()  # the host's process
  ABOVE = os.getpid()  # the server's

  def raw(number, *args):
    return linux.syscall('call', number, *args)

  ACTS = {
    'compute': lambda: sum(range(1 << 16)),
    'allocate': lambda: len(bytearray(1 << 26)),
    'read': lambda: open('/etc/hostname').read(),
    'read import': lambda: __import__('this'),
    'read raw': lambda: raw(257, -100, b'/etc/hostname', 0, 0),
    'list': lambda: os.listdir('/'),
    'stat': lambda: os.stat('/etc/hostname'),
    'readlink': lambda: os.readlink('/proc/self/exe'),
    'write': lambda: open(FILE, 'w').write('x'),
    'truncate': lambda: os.truncate(FILE, 0),
    'unlink': lambda: os.unlink(FILE),
    'rename': lambda: os.rename(FILE, FILE + '.new'),
    'chmod': lambda: os.chmod(FILE, 0),
    'mkdir': lambda: os.mkdir(FILE + '.dir'),
    'memfd': lambda: os.memfd_create('x'),
    'pipe': os.pipe,
    'tcp': lambda: socket.socket(),
    'unix': lambda: socket.socket(socket.AF_UNIX),
    'netlink': lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    'socketpair': socket.socketpair,
    'fork': os.fork,
    'thread': lambda: __import__('_thread').start_new_thread(print, ()),
    'kill host': lambda: os.kill(CHILD, 0),
    'kill server': lambda: os.kill(ABOVE, 0),
    'pidfd': lambda: os.pidfd_open(ABOVE),
    'limits': lambda: __import__('resource').prlimit(CHILD, 7, (9, 9)),
    'prctl': lambda: linux.prctl(linux.PR_SET_DUMPABLE, 1),
    'ptrace': lambda: ctypes.CDLL(None).ptrace(16, ABOVE, 0, 0),
    'exec': lambda: os.execv('/bin/true', ['true']),
    'spawn': lambda: os.posix_spawn('/bin/true', ['true'], {}),
    'subprocess': lambda: subprocess.run(['/bin/true']),
    'system': lambda: ctypes.CDLL(None).system(b'true') and 1 / 0,
    'root': lambda: os.setuid(0),
    'unshare': lambda: linux.unshare(linux.CLONE_NEWUSER),
    'io_uring': lambda: raw(425, 1, bytes(120)),
    'uid': os.getuid,
  }

  def handle(act):
    try:
      return ['done', repr(ACTS[act]())]
    except OSError as e:
      return ['refused', e.errno]

  if __name__ == '__main__':
    if WITHOUT:
      import dataclasses
      full = confine.available
      gone = {'seccomp': b'', 'landlock': False}
      confine.available = lambda: dataclasses.replace(
        full(), **{k: gone[k] for k in WITHOUT.split()}
      )
    forkserver.serve(handle)
  """
)

# Starts a pool in a process of its own, as another user for one; prints JSON.
HOST = textwrap.dedent(
  """
  import json, logging, sys
  from restem_jax.rewards import pool
  logging.basicConfig(stream=sys.stderr)
  workers = pool.WorkerPool('confined_worker', num_workers=1, timeout_s=20.0,
                            memory_limit=1 << 29)
  out = {}
  for act in json.loads(sys.argv[1]):
    reply = workers.submit(act).result()
    out[act] = reply.value if reply.status == 'ok' else [reply.status]
  # One more server: what it lacks has been said.
  workers._server._stop()
  workers.submit('compute').result()
  workers.close()
  print(json.dumps(out))
  """
)

HARMLESS = ('compute', 'allocate')
READ = ('read', 'read import', 'read raw', 'list')
CHANGE = ('write', 'truncate', 'unlink', 'rename', 'mkdir')
CONNECT = ('tcp', 'unix', 'netlink', 'socketpair', 'pipe', 'memfd')
OTHERS = ('kill host', 'kill server', 'pidfd', 'limits', 'prctl')
MORE = ('stat', 'readlink', 'chmod', 'fork', 'thread')
# These end the worker, and the one that tries again.
KILLED = ('exec', 'ptrace', 'root', 'unshare', 'io_uring')
START = ('spawn', 'subprocess', 'system')


def missing(before=''):
  """The layers missing here, by a process of its own: this one has threads."""
  code = f'from restem_jax.rewards import confine\n{before}\n'
  root = pathlib.Path(forkserver.__file__).parents[2]
  ended = subprocess.run(
    [sys.executable, '-c', code + 'print(*confine.available().missing())'],
    env={**os.environ, 'PYTHONPATH': str(root)},
    capture_output=True,
    text=True,
    check=True,
  )
  return ended.stdout.split()


needs_seccomp = pytest.mark.skipif(
  'seccomp' in missing(), reason='seccomp is not to be had here'
)
needs_root = pytest.mark.skipif(
  os.getuid() != 0 or not shutil.which('setpriv'),
  reason='needs root and setpriv',
)
AS_USER = ['setpriv', '--reuid=12345', '--regid=12345', '--clear-groups']


@pytest.fixture
def folder(tmp_path):
  """A folder and a file in it that any user may change."""
  (tmp_path / 'confined_worker.py').write_text(WORKER)
  tmp_path.chmod(0o777)
  for path in tmp_path.parents:
    if path.stat().st_mode & 0o077 == 0:  # pytest's: their owner's alone
      path.chmod(0o777)
  (tmp_path / 'file').write_text('as it was')
  (tmp_path / 'file').chmod(0o666)
  return tmp_path


def run(folder, acts, *, without='', prefix=(), python=sys.executable):
  source = (folder / 'confined_worker.py').read_text()
  source = source.replace('sys.argv[1]', repr(str(folder / 'file')))
  source = source.replace('sys.argv[2]', repr(without))
  (folder / 'confined_worker.py').write_text(source)
  root = pathlib.Path(forkserver.__file__).parents[2]
  ended = subprocess.run(
    [*prefix, python, '-B', '-c', HOST, json.dumps(acts)],
    env={**os.environ, 'PYTHONPATH': f'{root}:{folder}'},
    capture_output=True,
    text=True,
    cwd='/',
  )
  assert ended.returncode == 0, ended.stderr
  assert (folder / 'file').read_text() == 'as it was'
  assert sorted(p.name for p in folder.iterdir()) == [
    'confined_worker.py',
    'file',
  ]
  return json.loads(ended.stdout), ended.stderr


def users():
  """The prefixes of the users that tests run as."""
  return [
    pytest.param((), id='this user'),
    pytest.param(AS_USER, id='normal user', marks=needs_root),
  ]


@needs_seccomp
@pytest.mark.parametrize('prefix', users())
def test_a_worker_computes_and_does_nothing_else(folder, prefix):
  python = other_python() if prefix else sys.executable
  refused = (*READ, *CHANGE, *CONNECT, *OTHERS, *MORE)
  found, log = run(
    folder, [*HARMLESS, *refused, *KILLED, *START, 'uid'], prefix=prefix,
    python=python,
  )  # fmt: skip
  assert {found.pop(act)[0] for act in HARMLESS} == {'done'}
  assert found.pop('uid') != ['done', '0']
  done = {act for act, how in found.items() if how[0] == 'done'}
  assert not done
  # Refused by the filter, not for want of a descriptor or by file modes.
  assert {act: found[act] for act in refused} == {
    act: ['error'] if act in ('read import', 'thread') else ['refused', 1]
    for act in refused
  }
  assert {act: found[act] for act in KILLED} == {
    act: ['error'] for act in KILLED
  }
  assert 'run without' not in log


@pytest.mark.parametrize('prefix', users())
def test_without_seccomp_files_and_processes_are_still_out_of_reach(
  folder, prefix
):
  python = other_python() if prefix else sys.executable
  acts = [*HARMLESS, 'read', 'list', 'write', 'tcp', 'fork', 'uid']
  found, log = run(
    folder, acts, without='seccomp', prefix=prefix, python=python
  )
  assert {found.pop(act)[0] for act in HARMLESS} == {'done'}
  assert found.pop('uid') != ['done', '0']
  assert {how[0] for how in found.values()} == {'refused'}, found
  # Said once, though the server was started twice.
  assert log.count('run without seccomp, which this machine') == 1


def test_without_both_limits_hold(folder):
  found, log = run(
    folder, [*HARMLESS, 'read', 'write', 'tcp', 'fork'],
    without='seccomp landlock',
  )  # fmt: skip
  assert {found.pop(act)[0] for act in HARMLESS} == {'done'}
  assert {how[0] for how in found.values()} == {'refused'}, found
  assert log.count('run without landlock and seccomp') == 1


def test_a_machine_without_a_table_of_calls():
  before = 'import os; other = os.uname_result((*os.uname()[:4], "riscv64")); '
  before += 'os.uname = lambda: other'
  assert 'seccomp' in missing(before)


def test_limits_of_time_and_memory_are_kept(folder):
  (folder / 'limited_worker.py').write_text(
    'from restem_jax.rewards import forkserver\n'
    'def handle(n):\n'
    '  while not n: pass\n'
    '  return len(bytearray(n))\n'
    'forkserver.serve(handle)\n'
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('PYTHONPATH', str(folder))
    workers = pool_lib.WorkerPool(
      'limited_worker', num_workers=1, timeout_s=1.0, memory_limit=1 << 29
    )
    try:
      assert workers.submit(1 << 27).result().value == 1 << 27
      assert workers.submit(1 << 29).result().status == 'oom'
      assert workers.submit(0).result().status == 'timeout'
      assert workers.submit(1).result().value == 1
    finally:
      workers.close()


def other_python():
  """An interpreter of this version that any user may start."""
  wanted = f'{sys.version_info[0]}.{sys.version_info[1]}'
  code = (
    'import os, sys\n'
    'there = os.access(os.path.realpath(sys.executable), os.X_OK)\n'
    'print(there and "%d.%d" % sys.version_info[:2])'
  )
  for python in (sys.executable, shutil.which('python3', path='/usr/bin:/bin')):
    if python:
      found = subprocess.run(
        [*AS_USER, python, '-c', code], capture_output=True, text=True, cwd='/'
      )
      if found.stdout.strip() == wanted:
        return python
  pytest.skip(f'no Python {wanted} that another user may start')
