import os

import pytest

from restem_jax.rewards.sandbox.slot import SandboxError, Slot
from restem_jax.rewards.sandbox.suite import Limits, Suite

CONFIG = {'uid': 61000, 'threads': 512, 'packages': [], 'preload': []}


def test_says_why_it_does_not_start():
  with pytest.raises(SandboxError, match='ModuleNotFoundError'):
    Slot({**CONFIG, 'tier': 1, 'preload': ['no_such_module']})


def test_a_preloaded_package_must_not_start_threads(tmp_path):
  (tmp_path / 'busy.py').write_text(
    'import threading, time\n'
    'threading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n'
  )
  config = {**CONFIG, 'tier': 1, 'packages': [str(tmp_path)]}
  with pytest.raises(SandboxError, match='has started threads'):
    Slot({**config, 'preload': ['busy']})


def probe(pool, program):
  suite = Suite(kind='stdio', tests=[{'stdin': '', 'stdout': 'SAFE\n'}])
  return pool.judge(program, suite, Limits(wall_s=10))


def test_no_secret_goes_along(pool, secret):
  """Neither in Python's environment nor in the C library's."""
  assert os.environ['SBX_SECRET'] == secret
  program = (
    'import ctypes, os, sys\n'
    'found = "SBX_SECRET" in os.environ\n'
    'env = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None),'
    ' "environ")\n'
    'n = 0\n'
    'while env[n]: found |= b"hunter" in env[n]; n += 1\n'
    'print("LEAK" if found or len(sys.argv) > 1 else "SAFE")'
  )
  outcome = probe(pool, program)
  assert outcome.status == 'pass', outcome


PROBES = {
  'shadow': 'open("/etc/shadow").read()',
  'passwd': 'open("/etc/passwd").read()',
  'tmp': 'os.listdir("/tmp")',
  'home': 'os.listdir("/root") + os.listdir("/home")',
  'proc': 'open("/proc/self/maps").read()',
  'parent': 'open(f"/proc/{os.getppid()}/mem", "rb").read(1)',
  'write': 'open("x", "w")',
  'shm': 'open("/dev/shm/x", "w")',
  'make': 'os.mkdir("/tmp/x")',
  'link': 'os.symlink("/etc/shadow", "x")',
  'mode': 'os.chmod("/usr/lib", 0o777)',
  'unix': 'socket.socket(socket.AF_UNIX)',
  'memfd': 'os.memfd_create("x")',
  'affinity': 'os.sched_setaffinity(os.getppid(), {0})',
  'limits': 'resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))',
  'raise limits': 'resource.setrlimit(resource.RLIMIT_AS, (-1, -1))',
  'nice': 'os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)',
}


@pytest.mark.parametrize('name', PROBES)
def test_refused(pool, name):
  program = (
    'import os, resource, socket\n'
    f'try: print("LEAK", {PROBES[name]})\n'
    'except (OSError, ValueError): print("SAFE")'
  )
  outcome = probe(pool, program)
  assert outcome.status == 'pass', outcome


KILLED = {
  'fork': 'os.fork()',
  'exec': 'os.execv("/bin/true", ["true"])',
  'shell': 'os.system("true")',
  'tcp': 'socket.create_connection(("127.0.0.1", 22), 1)',
  'netlink': 'socket.socket(16, 3, 0)',
  'all': 'os.kill(-1, 15)',
  'parent': 'os.kill(os.getppid(), 0)',
  'group': 'os.killpg(0, 15)',
  'setuid': 'os.setuid(0)',
  'chroot': 'os.chroot("/")',
  'namespace': 'libc.unshare(0x10000000)',
  'io_uring': 'libc.syscall(425, 4, ctypes.create_string_buffer(120))',
  'ptrace': 'libc.ptrace(16, os.getppid(), 0, 0)',
}


@pytest.mark.parametrize('name', KILLED)
def test_killed(pool, name):
  program = (
    'import ctypes, os, socket\nlibc = ctypes.CDLL(None)\n'
    f'try: {KILLED[name]}\n'
    'except BaseException: pass\nprint("SAFE")'
  )
  assert probe(pool, program).status == 'violation'


def test_memory_of_threads_and_files_is_capped(pool):
  program = (
    'import mmap\nkept = []\ntry:\n  while len(kept) < 64:\n'
    '    kept.append(mmap.mmap(-1, 1 << 28))\n'
    '  print("LEAK")\nexcept (OSError, MemoryError): print("SAFE")'
  )
  assert probe(pool, program).status == 'pass'
