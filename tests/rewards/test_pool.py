"""Tests of restem_jax.rewards.pool and forkserver, with real processes."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from restem_jax.rewards import forkserver, pool as pool_lib

WORKER = textwrap.dedent(
  """
  import errno, os, socket, sys, time
  from restem_jax.rewards import forkserver

  calls = 0

  def handle(request):
    global calls
    calls += 1
    match request:
      case {'echo': value}: return value
      case {'calls': _}: return calls
      case {'pid': _}: return os.getpid()
      case {'sleep': s}: time.sleep(s)
      case {'spin': _}:
        while True: pass
      case {'alloc': n}: return len(bytearray(n))
      case {'grow': _}:
        hoard = []
        while True: hoard.append(bytearray(1 << 24))
      case {'exit': code}: os._exit(code)
      case {'kill': number}: os.kill(os.getpid(), number)
      case {'recurse': _}:
        def f(): return f()
        f()
      case {'raise': text}: raise ValueError(text)
      case {'huge': n}: return 'x' * n
      case {'open': path}: open(path).close()
      case {'socket': _}: socket.socket().close()
      case {'fork': _}:
        if os.fork() == 0: os._exit(0)
      case {'env': _}: return dict(os.environ)
      case {'uid': _}: return os.getuid()
      case {'fds': _}:
        return [f for f in range(200) if is_open(f)]
      case {'once': path}:
        os._exit(3)

  def is_open(fd):
    try: os.lseek(fd, 0, os.SEEK_CUR)
    except OSError as e: return e.errno != errno.EBADF
    return True

  if __name__ == '__main__':
    forkserver.serve(handle)
  """
)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp('worker')
  (path / 'pool_worker.py').write_text(WORKER)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('PYTHONPATH', str(path))
    patch.setenv('SECRET_TOKEN', 'hunter2')
    yield path


def make(**kwargs):
  return pool_lib.WorkerPool(
    'pool_worker',
    **{
      'num_workers': 1,
      'timeout_s': 0.5,
      'memory_limit': 1 << 29,
      **kwargs,
    },
  )


@pytest.fixture(scope='module')
def pool(path):
  pool = make(timeout_s=10.0)
  yield pool
  pool.close()


def ask(pool, **request):
  return pool.submit(request).result(timeout=20)


def test_answers_in_any_order(pool):
  futures = [pool.submit({'echo': i}) for i in range(200)]
  assert [f.result().value for f in futures] == list(range(200))


@pytest.mark.parametrize(
  ('request_', 'status'),
  [
    ({'alloc': 1 << 34}, 'oom'),
    ({'grow': 1}, 'oom'),
    ({'exit': 0}, 'error'),
    ({'exit': forkserver.OOM_EXIT}, 'oom'),
    ({'kill': signal.SIGSEGV}, 'error'),
    ({'kill': signal.SIGKILL}, 'error'),
    ({'recurse': 1}, 'error'),
    ({'raise': 'no'}, 'error'),
    ({'huge': 1 << 21}, 'error'),
    ({'open': '/etc/passwd'}, 'error'),
    ({'socket': 1}, 'error'),
    ({'fork': 1}, 'error'),
  ],
)
def test_what_goes_wrong_is_told_and_the_next_is_answered(
  pool, request_, status
):
  assert pool.submit(request_).result(timeout=20).status == status
  assert ask(pool, echo='alive').value == 'alive'


def test_timeout_kills_within_the_limit(path):
  pool = make(num_workers=2)
  try:
    ask(pool, echo=1)
    start = time.monotonic()
    slow = pool.submit({'spin': 1})
    quick = [pool.submit({'echo': i}) for i in range(20)]
    assert all(f.result().status == 'ok' for f in quick)
    assert not slow.done()  # the others did not wait for it
    assert slow.result().status == 'timeout'
    assert 0.4 < time.monotonic() - start < 3.0
    assert pool.num_killed == 1
    assert ask(pool, echo=2).value == 2
  finally:
    pool.close()


def test_no_secret_and_no_descriptor_gets_in(pool):
  environment = ask(pool, env=1).value
  assert 'SECRET_TOKEN' not in environment
  assert set(environment) <= {
    'PATH', 'LANG', 'LC_CTYPE', 'PYTHONPATH', 'PYTHONHASHSEED',
    'PYTHONDONTWRITEBYTECODE',
  }  # fmt: skip
  assert len(ask(pool, fds=1).value) == 4  # std streams and its socket


@pytest.mark.skipif(os.getuid() != 0, reason='root only: gives up root')
def test_root_is_given_up(pool):
  assert ask(pool, uid=1).value != 0


def test_recycles(path):
  pool = make(recycle_after=10)
  try:
    pids = [ask(pool, pid=1).value for _ in range(25)]
  finally:
    pool.close()
  assert [len(set(pids[i : i + 10])) for i in (0, 10, 20)] == [1, 1, 1]
  assert len(set(pids)) == 3


def test_server_is_restarted(path):
  pool = make()
  try:
    ask(pool, echo=1)
    process = pool._server._process
    assert process is not None
    process.kill()
    assert ask(pool, echo=2).value == 2
  finally:
    pool.close()


def test_close_leaves_nothing_and_cancels_what_waits(path):
  pool = make(timeout_s=5.0)
  pid = ask(pool, pid=1).value
  server = pool._server._process
  assert server is not None
  running = [pool.submit({'sleep': 0.3}) for _ in range(20)]
  start = time.monotonic()
  pool.close()
  assert time.monotonic() - start < 4
  assert all(f.done() for f in running)
  assert running[-1].cancelled()
  assert server.returncode is not None
  assert not _alive(pid)
  pool.close()
  with pytest.raises(RuntimeError, match='closed'):
    pool.submit({})


def test_a_module_that_does_not_start_says_why(path):
  pool = pool_lib.WorkerPool(
    'no_such_module', num_workers=1, timeout_s=1.0, memory_limit=1 << 29
  )
  with pytest.raises(pool_lib.StartError, match='No module named'):
    pool.submit({})
  pool.close()


def test_limits_are_checked():
  with pytest.raises(ValueError, match='timeout_s'):
    make(timeout_s=0)


def test_flat_file_descriptors(pool):
  ask(pool, echo=1)
  before = len(os.listdir('/proc/self/fd'))
  for _ in range(20):
    ask(pool, exit=0)
  ask(pool, echo=1)
  assert len(os.listdir('/proc/self/fd')) == before


def test_killing_the_host_ends_everything(path):
  host = textwrap.dedent(
    """
    import sys, time
    from restem_jax.rewards import pool
    p = pool.WorkerPool('pool_worker', num_workers=2, timeout_s=60.0,
                        memory_limit=1 << 29)
    p.submit({'echo': 1}).result()
    pids = [p.submit({'pid': 1}).result().value, p._server._process.pid]
    p.submit({'spin': 1})
    p.submit({'spin': 1})
    time.sleep(0.3)
    print(*pids, flush=True)
    time.sleep(60)
    """
  )
  root = pathlib.Path(forkserver.__file__).parents[2]
  with subprocess.Popen(
    [sys.executable, '-c', host],
    stdout=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': f'{root}:{path}'},
  ) as process:
    assert process.stdout is not None
    pids = [int(p) for p in process.stdout.readline().split()]
    assert all(map(_alive, pids))
    process.kill()
  deadline = time.monotonic() + 10
  while any(map(_alive, pids)) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not any(map(_alive, pids))


def _alive(pid):
  """Whether a process runs; a zombie that waits for init does not."""
  with contextlib.suppress(FileNotFoundError, ProcessLookupError):
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    return stat.rpartition(')')[2].split()[0] != 'Z'
  return False
