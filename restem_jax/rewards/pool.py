"""A pool of killable request/response processes.

In: JSON requests; out: futures of `Reply`, each within its wall limit
whatever the request does to the worker. What is *not* here: the worker's own
side (`forkserver`) and what the requests mean.

One thread per worker talks to it over a socket; one fork server, started by
`subprocess` with a clean environment, makes the workers. A worker that runs
past its limit is killed and replaced; one that dies is replaced and its
request tried once more, then answered with 'error' (or 'oom').

Why not a library: multiprocessing and what builds on it (pebble, loky) start
workers with the host's environment and either fork the host or pay a second
of imports for every kill; a kill here costs a fork of a warm process.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import pathlib
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Literal

from restem_jax.rewards import forkserver

_log = logging.getLogger(__name__)

_START_S = 120.0  # imports from a cold disk on a busy machine
_CONTROL_S = 10.0  # fork and kill take milliseconds
_QUEUED = 32  # requests per worker; enough to work on while one times out
_STATUSES = ('ok', 'timeout', 'oom', 'error')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
  """What became of a request."""

  status: Literal['ok', 'timeout', 'oom', 'error']
  value: Any = None  # of the handler, when status is 'ok'
  detail: str = ''


class StartError(RuntimeError):
  """The fork server did not start; the message has its last words."""


class ForkServer:
  """The host's handle on a `forkserver` process. Safe to use by threads."""

  def __init__(self, module: str, *, memory_limit: int, cpu_limit_s: int):
    self._module = module
    self._limits = {'memory_limit': memory_limit, 'cpu_limit_s': cpu_limit_s}
    self._lock = threading.Lock()
    self._process: subprocess.Popen[bytes] | None = None
    self._control: socket.socket | None = None
    self._told = False  # of missing layers

  def fork(self) -> tuple[int, socket.socket]:
    """A new worker: its process id and the socket to talk to it.

    Raises:
      StartError: when the server can't be started.
    """
    with self._lock:
      for last in (False, True):
        control = self._started()
        ours, theirs = socket.socketpair()
        try:
          socket.send_fds(control, [b'F'], [theirs.fileno()])
          return forkserver.read_frame(control)['pid'], ours
        except (OSError, EOFError):
          ours.close()
          self._stop()
          if last:
            raise StartError(f'{self._module}: cannot fork') from None
        finally:
          theirs.close()
    raise AssertionError

  def kill(self, pid: int) -> int | None:
    """Kills a worker; its exit code or minus its signal, None if unknown."""
    with self._lock:
      if self._control is None:
        return None  # the server is gone, and its workers with it
      try:
        self._control.sendall(b'K')
        forkserver.write_frame(self._control, {'pid': pid})
        return forkserver.read_frame(self._control)['status']
      except (OSError, EOFError):
        self._stop()
        return None

  def close(self) -> None:
    with self._lock:
      self._stop()

  def _started(self) -> socket.socket:
    if self._control is not None:
      return self._control
    control, theirs = socket.socketpair()
    root = str(pathlib.Path(forkserver.__file__).parents[2])
    path = [root, os.environ.get('PYTHONPATH', '')]
    with tempfile.TemporaryFile() as errors:
      self._process = subprocess.Popen(
        [sys.executable, '-P', '-m', self._module],
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=errors,
        cwd='/',
        env={
          'PATH': os.defpath,
          'LANG': 'C.UTF-8',
          'PYTHONPATH': os.pathsep.join(filter(None, path)),
          'PYTHONHASHSEED': '0',  # the order of sets is the order of work
          'PYTHONDONTWRITEBYTECODE': '1',
        },
        start_new_session=True,
      )
      theirs.close()
      control.settimeout(_START_S)
      try:
        forkserver.write_frame(control, self._limits)
        missing = forkserver.read_frame(control)['missing']
      except (OSError, EOFError):
        control.close()
        self._stop()
        errors.seek(0)
        words = errors.read()[-2000:].decode(errors='replace').strip()
        raise StartError(
          f'{self._module} did not start: {words or "no message"}'
        ) from None
    control.settimeout(_CONTROL_S)
    if missing and not self._told:
      self._told = True
      _log.warning(
        'workers of %s run without %s, which this machine does not give them; '
        'limits of memory, time, files and processes hold',
        *(self._module, ' and '.join(missing)),
      )
    self._control = control
    return control

  def _stop(self) -> None:
    if self._control is not None:
      self._control.close()  # the server ends at end of file
      self._control = None
    if self._process is not None:
      try:
        self._process.wait(_CONTROL_S)
      except subprocess.TimeoutExpired:
        self._process.kill()
        self._process.wait()
      self._process = None


class WorkerPool:
  """Requests to `num_workers` processes of a module that calls `serve`.

  Attributes:
    num_killed: workers killed at their wall limit so far.
    num_died: workers that ended by themselves in the middle of a request.
  """

  def __init__(
    self,
    module: str,
    *,
    num_workers: int,
    timeout_s: float,
    memory_limit: int,
    recycle_after: int = 3000,
  ):
    """Starts nothing yet: the first `submit` does.

    Args:
      module: what `python -m` runs; it ends in `forkserver.serve(handler)`.
      num_workers: processes at work at the same time.
      timeout_s: wall limit of one request, in seconds.
      memory_limit: address space of a worker, in bytes.
      recycle_after: requests after which a worker is replaced (caches grow).
    """
    if num_workers < 1 or timeout_s <= 0 or memory_limit < 1 << 28:
      raise ValueError(
        'a pool needs num_workers >= 1, timeout_s > 0 and memory_limit >= '
        f'{1 << 28} bytes; got {num_workers}, {timeout_s}, {memory_limit}'
      )
    self.num_killed = 0
    self.num_died = 0
    self._timeout_s = timeout_s
    self._recycle_after = recycle_after
    self._num_workers = num_workers
    self._server = ForkServer(
      module,
      memory_limit=memory_limit,
      # The wall limit rules; this one ends a worker whose host is stopped.
      cpu_limit_s=int(recycle_after * max(timeout_s, 1.0)) + 1,
    )
    self._queue: queue.Queue[_Task | None] = queue.Queue(_QUEUED * num_workers)
    self._threads: list[threading.Thread] = []
    self._lock = threading.Lock()
    self._closed = False

  def submit(self, request: Any) -> concurrent.futures.Future[Reply]:
    """Queues a request; blocks while 32 per worker are waiting.

    Raises:
      StartError: when the processes can't be started.
      forkserver.FrameError: for a request that is too long or not JSON.
    """
    with self._lock:
      if self._closed:
        raise RuntimeError('the pool is closed')
      if not self._threads:
        first = _Worker(self._server)  # raises here rather than in a thread
        for i in range(self._num_workers):
          worker = first if i == 0 else None
          thread = threading.Thread(
            target=self._run, args=(worker,), daemon=True, name=f'pool-{i}'
          )
          thread.start()
          self._threads.append(thread)
    task = _Task(request=request, future=concurrent.futures.Future())
    self._queue.put(task)
    return task.future

  def close(self) -> None:
    """Ends all processes and threads; what is queued is cancelled."""
    with self._lock:
      self._closed = True
    with contextlib.suppress(queue.Empty):
      while (task := self._queue.get_nowait()) is not None:
        task.future.cancel()
    for _ in self._threads:
      self._queue.put(None)
    for thread in self._threads:
      thread.join()
    self._threads = []
    self._server.close()

  def _run(self, worker: '_Worker | None') -> None:
    while (task := self._queue.get()) is not None:
      try:
        worker, reply = self._answer(worker, task.request)
      except Exception as e:  # a future must never be left unanswered
        worker = None
        task.future.set_exception(e)
      else:
        task.future.set_result(reply)
      if worker is not None and worker.num_requests >= self._recycle_after:
        worker.end()
        worker = None
    if worker is not None:
      worker.end()

  def _answer(
    self, worker: '_Worker | None', request: Any
  ) -> tuple['_Worker | None', Reply]:
    reply = Reply(status='error', detail='the worker died twice')
    for _ in range(2):
      worker = worker or _Worker(self._server)
      try:
        reply = worker.ask(request, self._timeout_s)
      except TimeoutError:
        worker.end()
        self.num_killed += 1
        return None, Reply(status='timeout')
      except (OSError, EOFError, forkserver.FrameError):
        code = worker.end()
        worker = None
        self.num_died += 1
        if code == forkserver.OOM_EXIT:
          return None, Reply(status='oom')
        continue
      if reply.status == 'oom':
        worker.end()
        worker = None
      return worker, reply
    return worker, reply


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
  request: Any
  future: concurrent.futures.Future[Reply]


class _Worker:
  """One live worker process, used by one thread."""

  def __init__(self, server: ForkServer):
    self._server = server
    self._pid, self._sock = server.fork()
    self.num_requests = 0

  def ask(self, request: Any, timeout_s: float) -> Reply:
    deadline = time.monotonic() + timeout_s
    self.num_requests += 1
    self._sock.settimeout(timeout_s)
    forkserver.write_frame(self._sock, request)
    reply = forkserver.read_frame(self._sock, deadline)
    if not isinstance(reply, dict) or reply.get('status') not in _STATUSES:
      raise forkserver.FrameError('not a reply')
    return Reply(
      status=reply['status'],
      value=reply.get('value'),
      detail=str(reply.get('detail', '')),
    )

  def end(self) -> int | None:
    code = self._server.kill(self._pid)
    with contextlib.suppress(OSError):
      self._sock.close()
    return code
