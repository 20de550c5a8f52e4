"""The fork server: one warm, jailed interpreter that forks per program.

In, over a SOCK_SEQPACKET socket from the host: requests as JSON, with
descriptors; out: how the child ended. The server reads neither programs nor
tests: it hands the descriptors to its children unread, so that no child
inherits another's data or an expected value. A fork of a warm interpreter
costs 1 ms of CPU, a fresh one 8 to 26 ms.

Requests:
  {'op': 'run', 'kind': 'stdio', ...limits}   + [program, stdin, stdout]
  {'op': 'run', 'kind': 'calls', ...limits}   + [program, socket]
      -> {'killed': ''|'timeout'|'stop', 'status': wait status, 'cpu_s': s,
          'ready': whether the child was set up, so that the status is the
          program's}
  {'op': 'stop', 'grace_s': s}        ends the running program, if any
  {'op': 'tester', 'memory': bytes}   + [socket]; the last tester is ended
  {'op': 'drop'}                      ends the tester

It ends when the host does: by the socket's end, and by a descriptor of the
host process, because a fork of the host may hold the socket open.
"""

import contextlib
import gc
import importlib
import json
import mmap
import os
import resource
import select
import signal
import site
import socket
import sys
import time
from typing import Any, NoReturn

from restem_jax.rewards.sandbox import (
  jail,
  linux,
  runner,
  seccomp,
  syscalls,
  tester,
  view,
)

# Loaded before the first fork: a program that imports them pays nothing. Short,
# because every fork pays for the pages (asyncio and unittest: 0.5 ms).
_PRELOADED = """
  _strptime abc array ast atexit base64 bisect calendar cmath collections.abc
  contextlib copy dataclasses datetime decimal enum fractions functools heapq
  io itertools json math numbers operator os queue random re statistics string
  struct sys textwrap threading time traceback types typing unicodedata zlib
"""

_MAX_REQUEST = 1 << 16
_MAX_FDS = 4
_STACK = 64 << 20
_NOFILE = 256
_SETUP_FAILED = 58  # exit status; a program may end with the same


def main(control_fd: int) -> None:
  """Enters the jail that the host asks for, says what came of it, serves."""
  # The descriptor has its number from the host, where 256 files may be open:
  # above what a child closes, it would be the program's to answer with.
  control = socket.socket(fileno=os.dup(control_fd))
  os.close(control_fd)
  config = json.loads(control.recv(_MAX_REQUEST))
  try:
    host = os.pidfd_open(os.getppid())
    if os.getppid() != config['host']:
      return
    _prepare_interpreter()
    sys.path += config['packages']
    for module in (*_PRELOADED.split(), *config['preload']):
      importlib.import_module(module)
    shown = view.loaded_folders(config['packages'])
    # What is not preloaded is not there, whatever the tier refuses how.
    sys.path[:] = [p for p in sys.path if p not in config['packages']]
    machine = syscalls.table()
    state = jail.enter(
      jail.Jail(
        tier=config['tier'],
        uid=config['uid'],
        packages=tuple(shown),
      ),
      machine,
    )
    server = _Server(control, host, machine, config['threads'])
  except Exception as e:
    control.send(json.dumps({'error': f'{type(e).__name__}: {e}'}).encode())
    return
  control.send(json.dumps(state).encode())
  with contextlib.suppress(ConnectionError):
    server.serve()
  os._exit(0)  # tier 1: pid 1, all below it end with it


def _prepare_interpreter() -> None:
  """What plain Python has and `python -S` lacks, and wider limits."""
  site.setquit()  # exit() and quit()
  runner.prepare()
  sys.set_int_max_str_digits(0)  # data sets print long integers
  _, hard = resource.getrlimit(resource.RLIMIT_STACK)
  if hard == resource.RLIM_INFINITY or hard >= _STACK:
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK, hard))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Server:
  """Forks, watches and reaps; at most one program and one tester at a time."""

  def __init__(
    self,
    control: socket.socket,
    host: int,
    machine: syscalls.Architecture,
    threads: int,
  ):
    self._control = control
    self._host = host
    self._threads = threads
    self._pid = os.getpid()
    self._tester = 0
    # Set by a child when it is set up, and out of its reach from then on: a
    # program must not pass for a child that failed by its exit status.
    self._ready = mmap.mmap(-1, 1)
    self._filters = [
      seccomp.child_filter(machine, may_receive=may) for may in (False, True)
    ]
    self._poller = select.poll()
    self._poller.register(control, select.POLLIN)
    self._poller.register(host, select.POLLIN)
    gc.collect()
    gc.freeze()  # the collector must not touch, so copy, the shared pages
    gc.disable()

  def serve(self) -> None:
    """Serves until the host is gone."""
    while True:
      self._poller.poll()
      request, fds = self._receive()
      if request['op'] == 'run':
        self._run(request, fds)
      elif request['op'] == 'tester':
        self._end_tester()
        self._tester = self._fork(request, fds)
      elif request['op'] == 'drop':
        self._end_tester()
      for fd in fds:
        os.close(fd)

  def _receive(self) -> tuple[dict[str, Any], list[int]]:
    """The next request; ends this process when the host is gone."""
    try:
      data, fds, _, _ = socket.recv_fds(
        self._control, _MAX_REQUEST, _MAX_FDS, socket.MSG_DONTWAIT
      )
    except BlockingIOError:  # it was the host's descriptor that woke us
      data, fds = b'', []
    if not data:
      self._end_tester()
      os._exit(0)
    return json.loads(data), list(fds)

  def _fork(self, request: dict[str, Any], fds: list[int]) -> int:
    pid = os.fork()
    if pid == 0:
      try:
        self._become(request, fds)
      finally:
        os._exit(_SETUP_FAILED)
    return pid

  def _run(self, request: dict[str, Any], fds: list[int]) -> None:
    start = time.monotonic()
    self._ready[0] = 0
    try:
      pid = self._fork(request, fds)
      process = os.pidfd_open(pid)
    except OSError as e:
      self._reply({'error': str(e)})
      return
    while fds:  # the host waits for the ends of these
      os.close(fds.pop())
    killed = self._watch(process, start + request['wall_s'])
    os.close(process)
    _, status, usage = os.wait4(pid, 0)
    self._reply(
      {
        'killed': killed,
        'status': status,
        'cpu_s': usage.ru_utime + usage.ru_stime,
        'ready': bool(self._ready[0]),
      }
    )

  def _watch(self, process: int, deadline: float) -> str:
    """Waits for the program's end, or brings it about; says which."""
    self._poller.register(process, select.POLLIN)
    killed = ''
    try:
      while True:
        left = deadline - time.monotonic()
        wait = None if killed else max(left, 0) * 1000
        ready = [fd for fd, _ in self._poller.poll(wait)]
        if process in ready:
          return killed
        if ready:
          request, _ = self._receive()
          if killed:  # it is on its way out; the tester saw that first
            continue
          killed = 'stop'
          grace = select.poll()
          grace.register(process, select.POLLIN)
          if grace.poll(request['grace_s'] * 1000):
            return ''
        elif left > 0 or killed:
          continue
        else:
          killed = 'timeout'
        signal.pidfd_send_signal(process, signal.SIGKILL)
    finally:
      self._poller.unregister(process)

  def _end_tester(self) -> None:
    if self._tester:
      with contextlib.suppress(ProcessLookupError):
        os.kill(self._tester, signal.SIGKILL)
      os.waitpid(self._tester, 0)
      self._tester = 0

  def _reply(self, message: dict[str, Any]) -> None:
    self._control.send(json.dumps(message).encode())

  def _become(self, request: dict[str, Any], fds: list[int]) -> NoReturn:
    """In the child: takes its descriptors, limits and filter, and runs."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != self._pid:
      os._exit(_SETUP_FAILED)
    is_tester = request['op'] == 'tester'
    source = b'' if is_tester else os.pread(fds[0], os.fstat(fds[0]).st_size, 0)
    if len(fds) == 3:
      os.dup2(fds[1], 0)
      os.dup2(fds[2], 1)
      os.closerange(3, _NOFILE)
    else:
      os.dup2(fds[-1], 3)
      os.closerange(4, _NOFILE)
    self._limit(request)
    linux.install_filter(
      seccomp.for_process(self._filters[is_tester], os.getpid())
    )
    if not is_tester:
      self._ready[0] = 1
    self._ready.close()
    gc.enable()
    if is_tester:
      tester.serve(socket.socket(fileno=3))
      os._exit(0)
    elif len(fds) == 3:
      runner.run_stdio(source)
    else:
      runner.run_calls(source, 3)

  def _limit(self, request: dict[str, Any]) -> None:
    limits = {
      resource.RLIMIT_AS: request['memory'],
      resource.RLIMIT_FSIZE: request.get('output', 0),
      resource.RLIMIT_NOFILE: _NOFILE,
      resource.RLIMIT_NPROC: self._threads,
    }
    if 'cpu_s' in request:
      limits[resource.RLIMIT_CPU] = request['cpu_s']
    for limit, value in limits.items():
      hard = resource.getrlimit(limit)[1]
      if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
      resource.setrlimit(limit, (value, value))
