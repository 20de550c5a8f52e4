"""One fork server seen from the host: starting it, sending it programs.

In: a program, a suite, limits; out: an `Outcome`, or `SandboxError` when the
server, not the program, failed. A slot is used by one thread at a time; its
owner (`host.SandboxPool`) replaces it after an error.

The host never forks (JAX has threads): the server is started by
posix_spawn/vfork in `subprocess`, with an environment of its own, because
strings removed later would still lie on the new process's stack. The host
reads from the untrusted side only the bytes of standard output; everything
with a structure is read by the jailed tester.
"""

import contextlib
import functools
import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any, NamedTuple

from restem_jax.rewards.sandbox import (
  compare,
  protocol,
  runner,
  wire,
)
from restem_jax.rewards.sandbox.suite import Limits, Outcome, Suite

_START_S = 60.0
_GRACE_S = 10.0  # for the server to answer after a program's deadline
_LAST_WORDS_S = 0.2  # for a process that closed its socket to end
_TESTER = protocol.REQUEST.pack(protocol.TESTER, 0, 1 << 32, 1 << 30, 0)

# Runs the server from the package's directory without running any package's
# __init__: no third-party module is on its path.
_BOOT = """
import sys, types
for name, path in zip(sys.argv[2::2], sys.argv[3::2]):
  sys.modules[name] = module = types.ModuleType(name)
  module.__path__ = [path]
from restem_jax.rewards.sandbox import zygote
zygote.main(int(sys.argv[1]))
"""


class SandboxError(Exception):
  """The sandbox failed; nothing is known about the program."""


class _Ended(NamedTuple):
  """How a program ended: `protocol.REPLY`."""

  killed: int
  ready: bool
  status: int
  cpu_s: float


@functools.cache
def _packages() -> list[str]:
  """Names and directories of the packages above this module."""
  path = os.path.dirname(os.path.abspath(__file__))
  names = __name__.split('.')[:-1]
  pairs: list[str] = []
  while names:
    pairs[:0] = ['.'.join(names), path]
    names.pop()
    path = os.path.dirname(path)
  return pairs


class Slot:
  """A fork server and its tester."""

  def __init__(self, config: dict[str, Any]):
    """Starts the server.

    Args:
      config: tier, uid, threads, packages, preload: see `zygote.main`.

    Raises:
      SandboxError: if it does not start, or the tier is not to be had.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    self._control = ours
    self._tester: socket.socket | None = None
    self._suite = b''
    with theirs:
      self._process = subprocess.Popen(
        [
          os.path.realpath(sys.executable),
          *('-s', '-S', '-P', '-B', '-X', 'utf8'),
          *('-c', _BOOT, str(theirs.fileno()), *_packages()),
        ],
        env={
          'LANG': 'C.UTF-8',
          'LD_BIND_NOW': '1',  # else every child looks its symbols up anew
          'PYTHONHASHSEED': '0',
          'MALLOC_ARENA_MAX': '2',  # each takes 64 MiB of the address space
          'OPENBLAS_NUM_THREADS': '1',
          'OMP_NUM_THREADS': '1',
        },
        cwd='/',
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # a terminal's Ctrl-C is not for it
      )
    try:
      ours.send(json.dumps(config | {'host': os.getpid()}).encode())
      self.state = self._state()
    except BaseException:
      self.close()
      raise

  def judge(self, program: str, suite: Suite, limits: Limits) -> Outcome:
    """Runs one program on one suite."""
    source = _encode(program)
    start = time.monotonic()
    try:
      if suite.kind == 'stdio':
        return self._judge_output(source, suite, limits, start)
      return self._judge_calls(source, suite, limits, start)
    except (OSError, wire.Lost, struct.error) as e:
      raise SandboxError(f'{type(e).__name__}: {e}') from e

  def close(self) -> None:
    """Ends the server and everything below it."""
    if self._tester:
      self._tester.close()
    self._control.close()
    try:
      self._process.wait(2)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()

  def _judge_output(
    self, source: bytes, suite: Suite, limits: Limits, start: float
  ) -> Outcome:
    if not suite.tests:
      return Outcome(status='broken', detail='no tests')
    cap = limits.output_mib << 20
    cpu_s = 0.0
    status, detail = 'pass', ''
    for number, test in enumerate(suite.tests):
      left = start + limits.wall_s - time.monotonic()
      with contextlib.ExitStack() as files:
        fds = []
        for content in (source, _encode(test['stdin']), b''):
          fd = os.memfd_create('sandbox')
          files.callback(os.close, fd)
          _fill(fd, content)
          fds.append(fd)
        self._send(_request(protocol.STDIO, limits, left), fds)
        ended = self._answer(max(left, 0) + _GRACE_S)
        output = os.pread(fds[2], cap, 0)
      cpu_s += ended.cpu_s
      status, detail = _classify(ended, limits)
      if status == 'pass' and len(output) >= cap:
        status, detail = 'error', 'too much output'
      elif status == 'pass' and not compare.same_output(
        _encode(test['stdout']), output, suite.compare
      ):
        status = 'fail'
      if status != 'pass':
        detail = f'test {number}: {detail or "wrong output"}'
        break
    return _outcome(status, detail, cpu_s, start)

  def _judge_calls(
    self, source: bytes, suite: Suite, limits: Limits, start: float
  ) -> Outcome:
    tester = self._prepare(suite)
    with contextlib.ExitStack() as files:
      program = os.memfd_create('sandbox')
      files.callback(os.close, program)
      _fill(program, source)
      mine, theirs = socket.socketpair()
      with mine, theirs:
        self._send(
          _request(protocol.CALLS, limits, limits.wall_s),
          [program, theirs.fileno()],
        )
        socket.send_fds(tester, [b'.'], [mine.fileno()])
    verdict, detail, ended = self._wait(tester, limits.wall_s)
    if verdict == 'lost':
      status, why = _classify(ended, limits)
      verdict = 'error' if status == 'pass' else status
      detail = why or detail
    return _outcome(verdict, detail, ended.cpu_s, start)

  def _wait(
    self, tester: socket.socket, wall_s: float
  ) -> tuple[str, str, _Ended]:
    """The tester's verdict, its detail, and how the program ended."""
    poller = select.poll()
    poller.register(tester, select.POLLIN)
    poller.register(self._control, select.POLLIN)
    ready = [fd for fd, _ in poller.poll((wall_s + _GRACE_S) * 1000)]
    if not ready:
      raise SandboxError('the fork server does not answer')
    if tester.fileno() not in ready:  # the program ended first
      ended = self._answer(0)
      poller.unregister(self._control)
      if not poller.poll(1000):
        # The tests are busy with what the program sent them.
        self._drop()
        return 'timeout', 'the tests did not end', ended
      return *self._verdict(tester), ended
    verdict, detail = self._verdict(tester)
    grace = _LAST_WORDS_S if verdict == 'lost' else 0
    self._send(protocol.REQUEST.pack(protocol.STOP, grace, 0, 0, 0), [])
    return verdict, detail, self._answer(_GRACE_S)

  def _verdict(self, tester: socket.socket) -> tuple[str, str]:
    try:
      verdict, detail = json.loads(wire.read_frame(tester.fileno()))
    except wire.Lost:  # out of memory, say, by what the program sent
      self._drop()
      return 'error', 'the tests ended early'
    return verdict, detail

  def _prepare(self, suite: Suite) -> socket.socket:
    """The tester for this suite: the last one, if it is the same suite."""
    if self._tester and self._suite == suite.payload:
      return self._tester
    if self._tester:
      self._tester.close()
    self._tester, theirs = socket.socketpair()
    self._suite = suite.payload
    with theirs:
      self._send(_TESTER, [theirs.fileno()])
    wire.write_frame(self._tester.fileno(), suite.payload)
    return self._tester

  def _drop(self) -> None:
    """Ends a tester that hangs or has died."""
    if self._tester:
      self._tester.close()
      self._tester = None
      self._send(protocol.REQUEST.pack(protocol.DROP, 0, 0, 0, 0), [])

  def _send(self, request: bytes, fds: list[int]) -> None:
    if fds:
      socket.send_fds(self._control, [request], fds)
    else:
      self._control.send(request)

  def _state(self) -> dict[str, Any]:
    """What the server says of itself at its start."""
    state = json.loads(self._receive(_START_S))
    if 'error' in state:
      raise SandboxError(state['error'])
    return state

  def _answer(self, timeout_s: float) -> _Ended:
    data = self._receive(timeout_s)
    if len(data) != protocol.REPLY.size:
      raise SandboxError(data.decode(errors='replace'))
    return _Ended(*protocol.REPLY.unpack(data))

  def _receive(self, timeout_s: float) -> bytes:
    poller = select.poll()
    poller.register(self._control, select.POLLIN)
    if not poller.poll(timeout_s * 1000):
      raise SandboxError('the fork server does not answer')
    data = self._control.recv(1 << 16)
    if not data:
      raise SandboxError('the fork server has ended')
    return data


def _encode(text: str) -> bytes:
  """UTF-8; lone surrogates, which JSON can hold, are no reason to fail."""
  return text.encode('utf-8', 'surrogatepass')


def _fill(fd: int, content: bytes) -> None:
  view = memoryview(content)
  offset = 0
  while offset < len(view):
    offset += os.pwrite(fd, view[offset:], offset)


def _request(op: int, limits: Limits, wall_s: float) -> bytes:
  return protocol.REQUEST.pack(
    op,
    wall_s,
    math.ceil(limits.cpu_s),
    limits.memory_mib << 20,
    limits.output_mib << 20,
  )


def _classify(ended: _Ended, limits: Limits) -> tuple[str, str]:
  """Status and detail from how the supervisor saw a process end.

  Never from what the program said: 'pass' only means an exit status of 0.
  """
  if ended.killed == protocol.TIMEOUT:
    return 'timeout', 'wall time'
  if ended.killed == protocol.STOPPED:
    return 'error', 'the program closed its socket or sent nonsense'
  if not ended.ready and not ended.killed:
    raise SandboxError('a child could not be set up')
  status = ended.status
  if os.WIFSIGNALED(status):
    number = os.WTERMSIG(status)
    if number == signal.SIGSYS:
      return 'violation', 'a forbidden system call'
    if number in (signal.SIGKILL, signal.SIGXCPU):
      if ended.cpu_s >= limits.cpu_s - 0.5:
        return 'timeout', 'CPU time'
      return 'oom', 'killed'
    named = number in set(signal.Signals)  # most real-time signals are not
    name = signal.Signals(number).name if named else f'signal {number}'
    return 'error', name
  code = os.WEXITSTATUS(status)
  if code == runner.OUT_OF_MEMORY:
    return 'oom', 'MemoryError'
  return ('error', f'exit status {code}') if code else ('pass', '')


def _outcome(status: str, detail: str, cpu_s: float, start: float) -> Outcome:
  return Outcome(
    status=status,
    detail=detail,
    cpu_s=cpu_s,
    wall_s=time.monotonic() - start,
  )
