"""The fork server: one warm, jailed interpreter that forks per program.

In, over a SOCK_SEQPACKET socket from the host: its settings as JSON, then
requests with descriptors; out: how the child ended. The server reads neither
programs nor tests: it hands the descriptors to its children unread, so that no
child inherits another's data or an expected value. A fork of a warm interpreter
costs 1 ms of CPU, a fresh one 8 to 26 ms.

Requests (`protocol`):
  STDIO   + [program, stdin, stdout]   -> REPLY
  CALLS   + [program, socket]          -> REPLY
  STOP                                 ends the running program, if any
  TESTER  + [socket]                   starts a tester; the last one is ended
  DROP                                 ends the tester

It ends when the host does: by the socket's end, and by a descriptor of the
host process, because a fork of the host may hold the socket open.
"""

import _thread
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
  protocol,
  runner,
  seccomp,
  syscalls,
  tester,
  view,
)

# Loaded before the first fork: a program that imports them pays nothing. Short,
# because every fork pays for their pages and maps: what the reference programs
# of MBPP and HumanEval import (but hashlib), and what this server needs. Eight
# more, which none of those 638 imports (calendar, statistics, traceback ...),
# cost each program 10 % more CPU; one that imports them now pays 2 to 9 ms.
_PRELOADED = """
  abc array ast atexit bisect collections.abc contextlib copy dataclasses
  datetime decimal enum fractions functools heapq io itertools json math
  numbers operator os queue random re string struct sys threading time types
  typing
"""

_MAX_CONFIG = 1 << 16
_FDS_BYTES = socket.CMSG_SPACE(3 * 4)
_STACK = 64 << 20
_NOFILE = 256
_LARGEST = 1 << 62
_SCHEDULED = 2  # CPUCLOCK_SCHED: the clock of a process's time on a CPU
_SETUP_FAILED = 58  # exit status; a program may end with the same

# Of a request, in its order; then the same for all.
_LIMITS = (
  resource.RLIMIT_CPU,
  resource.RLIMIT_AS,
  resource.RLIMIT_FSIZE,
  resource.RLIMIT_NOFILE,
  resource.RLIMIT_NPROC,
)


def main(control_fd: int) -> None:
  """Enters the jail that the host asks for, says what came of it, serves."""
  # The descriptor has its number from the host, where 256 files may be open:
  # above what a child closes, it would be the program's to answer with.
  control = socket.socket(fileno=os.dup(control_fd))
  os.close(control_fd)
  config = json.loads(control.recv(_MAX_CONFIG))
  try:
    host = os.pidfd_open(os.getppid())
    if os.getppid() != config['host']:
      return
    _prepare_interpreter()
    sys.path += config['packages']
    for module in (*_PRELOADED.split(), *config['preload']):
      importlib.import_module(module)
    if _thread._count():  # a fork would lose them, and what locks they hold
      raise RuntimeError('a preloaded package has started threads')
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
    self._pid = os.getpid()
    self._tester = 0
    # Set by a child when it is set up, and out of its reach from then on: a
    # program must not pass for a child that failed by its exit status.
    self._ready = mmap.mmap(-1, 1)
    self._filters = [
      linux.ProcessFilter(
        seccomp.child_filter(machine, may_receive=may), seccomp.OWN_ID
      )
      for may in (False, True)
    ]
    self._threads = threads
    self._hard = [(limit, _hard(limit)) for limit in _LIMITS]
    self._poller = select.poll()
    self._poller.register(control, select.POLLIN)
    self._poller.register(host, select.POLLIN)
    self._rehearse()
    gc.collect()
    linux.trim_heap()
    gc.freeze()  # the collector must not touch, so copy, the shared pages
    gc.disable()

  def _rehearse(self) -> None:
    """What a child does, as far as it can be done here without effect."""
    for _ in range(runner.REHEARSALS):
      linux.prctl(linux.PR_GET_DUMPABLE)
      for limit in _LIMITS:
        resource.setrlimit(limit, resource.getrlimit(limit))
    runner.rehearse()

  def serve(self) -> None:
    """Serves until the host is gone."""
    while True:
      self._poller.poll()
      request, fds = self._receive()
      op = request[0]
      if op == protocol.STDIO or op == protocol.CALLS:
        self._run(request, fds)
      elif op == protocol.TESTER:
        self._end_tester()
        self._tester = self._fork(request, fds)
      elif op == protocol.DROP:
        self._end_tester()
      for fd in fds:
        os.close(fd)

  def _receive(self) -> tuple[tuple[Any, ...], list[int]]:
    """The next request; ends this process when the host is gone."""
    try:
      data, passed, _, _ = self._control.recvmsg(
        protocol.REQUEST.size, _FDS_BYTES, socket.MSG_DONTWAIT
      )
    except BlockingIOError:  # it was the host's descriptor that woke us
      data = b''
    if not data:
      self._end_tester()
      os._exit(0)
    fds = memoryview(passed[0][2]).cast('i').tolist() if passed else []
    return protocol.REQUEST.unpack(data), fds

  def _fork(self, request: tuple[Any, ...], fds: list[int]) -> int:
    pid = os.fork()
    if pid == 0:
      try:
        self._become(request, fds)
      finally:
        os._exit(_SETUP_FAILED)
    return pid

  def _run(self, request: tuple[Any, ...], fds: list[int]) -> None:
    deadline = time.monotonic() + request[1]
    self._ready[0] = 0
    try:
      pid = self._fork(request, fds)
      process = os.pidfd_open(pid)
    except OSError as e:
      self._control.send(f'{protocol.NOT_STARTED}{e}'.encode())
      return
    while fds:  # the host waits for the ends of these
      os.close(fds.pop())
    killed = self._watch(process, deadline)
    os.close(process)
    # The process's CPU clock (clock_getcpuclockid); wait4 would import a module
    # and make 16 numbers of which two are of use.
    cpu_s = time.clock_gettime(~pid << 3 | _SCHEDULED)
    _, status = os.waitpid(pid, 0)
    ready = self._ready[0] == 1
    self._control.send(protocol.REPLY.pack(killed, ready, status, cpu_s))

  def _watch(self, process: int, deadline: float) -> int:
    """Waits for the program's end, or brings it about; says which."""
    self._poller.register(process, select.POLLIN)
    killed = protocol.RAN
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
          killed = protocol.STOPPED
          grace = select.poll()
          grace.register(process, select.POLLIN)
          if grace.poll(request[1] * 1000):
            return protocol.RAN
        elif left > 0 or killed:
          continue
        else:
          killed = protocol.TIMEOUT
        signal.pidfd_send_signal(process, signal.SIGKILL)
    finally:
      self._poller.unregister(process)

  def _end_tester(self) -> None:
    if self._tester:
      with contextlib.suppress(ProcessLookupError):
        os.kill(self._tester, signal.SIGKILL)
      os.waitpid(self._tester, 0)
      self._tester = 0

  def _become(self, request: tuple[Any, ...], fds: list[int]) -> NoReturn:
    """In the child: takes its descriptors, limits and filter, and runs."""
    op, _, *limits = request
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != self._pid:
      os._exit(_SETUP_FAILED)
    source = b''
    if op != protocol.TESTER:
      source = os.pread(fds[0], os.lseek(fds[0], 0, os.SEEK_END), 0)
    if op == protocol.STDIO:
      os.dup2(fds[1], 0)
      os.dup2(fds[2], 1)
      os.closerange(3, _NOFILE)
    else:
      os.dup2(fds[-1], 3)
      os.closerange(4, _NOFILE)
    self._limit(limits)
    self._filters[op == protocol.TESTER].install(os.getpid())
    if op != protocol.TESTER:
      self._ready[0] = 1
    self._ready.close()
    gc.enable()
    if op == protocol.STDIO:
      runner.run_stdio(source)
    elif op == protocol.CALLS:
      runner.run_calls(source, 3)
    tester.serve(socket.socket(fileno=3))
    os._exit(0)

  def _limit(self, values: list[int]) -> None:
    values += (_NOFILE, self._threads)
    for limit, hard in self._hard:
      value = values.pop(0)
      if value > hard:
        value = hard
      resource.setrlimit(limit, (value, value))


def _hard(limit: int) -> int:
  """The most that this process may set."""
  hard = resource.getrlimit(limit)[1]
  return _LARGEST if hard == resource.RLIM_INFINITY else hard
