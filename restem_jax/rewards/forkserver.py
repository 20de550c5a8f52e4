"""The process side of `pool`: a warm, single-threaded fork server.

In: commands of the host over the socket on file descriptor 0 (fork a worker
onto this socket; kill that worker); out: forked workers that answer requests
with a handler, one JSON frame each. What is *not* here: deadlines, queues and
retries (`pool`), and what is computed (the handler).

The host process must not fork (accelerator runtimes have threads), and a new
interpreter costs a second of imports. So the host starts this process once;
it imports, warms its caches, and then forks a worker in a few milliseconds,
as often as one has to be killed. It never computes anything itself, so it
always answers.

A worker can do no more than compute (`confine`), in a bounded address space;
it dies with this process, which ends when the host does.
"""

from collections.abc import Callable, Mapping
import contextlib
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

from restem_jax.rewards import confine

MAX_FRAME = 1 << 20  # bytes
OOM_EXIT = 77  # a worker's exit code when not even a reply could be built

_HEADER = struct.Struct('>I')

Handler = Callable[[Any], Any]


class FrameError(ValueError):
  """A frame that is too long or not JSON."""


def write_frame(sock: socket.socket, value: Any) -> None:
  """Sends a value as a 4-byte big-endian length and JSON.

  Raises:
    FrameError: when it takes more than MAX_FRAME bytes or is not JSON.
  """
  try:
    data = json.dumps(value, separators=(',', ':')).encode('ascii')
  except (TypeError, ValueError, RecursionError) as e:
    raise FrameError(f'not JSON: {e}') from None
  if len(data) > MAX_FRAME:
    raise FrameError(f'{len(data)} bytes; at most {MAX_FRAME}')
  sock.sendall(_HEADER.pack(len(data)) + data)


def read_frame(sock: socket.socket, deadline: float | None = None) -> Any:
  """Reads what `write_frame` sent.

  Args:
    sock: a stream socket.
    deadline: `time.monotonic()` by which the whole frame must be there; a
      reply that trickles in does not renew it.

  Raises:
    EOFError: the other side is gone.
    FrameError: a frame that is too long (not read) or not JSON.
    TimeoutError: at the deadline, or by the socket's own timeout.
  """
  (size,) = _HEADER.unpack(_read_exactly(sock, _HEADER.size, deadline))
  if size > MAX_FRAME:
    raise FrameError(f'{size} bytes; at most {MAX_FRAME}')
  try:
    return json.loads(_read_exactly(sock, size, deadline))
  except (ValueError, RecursionError) as e:
    raise FrameError(f'not JSON: {e}') from None


def _read_exactly(
  sock: socket.socket, size: int, deadline: float | None
) -> bytes:
  data = bytearray()
  while len(data) < size:
    if deadline is not None:
      left = deadline - time.monotonic()
      if left <= 0:
        raise TimeoutError
      sock.settimeout(left)
    chunk = sock.recv(size - len(data))
    if not chunk:
      raise EOFError
    data += chunk
  return bytes(data)


def serve(handler: Handler) -> None:
  """Runs the fork server until the host is gone; call it after warming up.

  Reads the limits from a first frame {"memory_limit": bytes,
  "cpu_limit_s": seconds}, answers {"missing": layers of `confine` that this
  machine does not give}, then obeys.
  """
  assert sys.platform == 'linux', sys.platform
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's
  parent = os.getppid()
  control = socket.socket(fileno=os.dup(0))
  devnull = os.open(os.devnull, os.O_RDWR)
  os.dup2(devnull, 0)
  os.close(devnull)
  limits = read_frame(control)
  layers = confine.available()
  gc.collect()
  gc.freeze()
  write_frame(control, {'missing': layers.missing()})
  poll = select.poll()
  poll.register(control, select.POLLIN)
  children: set[int] = set()
  try:
    while os.getppid() == parent:
      if not poll.poll(1000):
        continue
      op, fds, _, _ = socket.recv_fds(control, 1, 1)
      if op == b'F':
        pid = os.fork()
        if pid == 0:
          control.close()
          _work(socket.socket(fileno=fds[0]), handler, limits, layers)
        os.close(fds[0])
        children.add(pid)
        write_frame(control, {'pid': pid})
      elif op == b'K':
        pid = read_frame(control)['pid']
        status = _reap(pid) if pid in children else None
        children.discard(pid)
        write_frame(control, {'status': status})
      else:
        break
  finally:
    for pid in children:
      _reap(pid)
    os._exit(0)


def _reap(pid: int) -> int:
  """Kills and waits; exit code, or minus the signal that ended it."""
  # Not reaped yet, so the id can't be another process's by now.
  with contextlib.suppress(ProcessLookupError):
    os.kill(pid, signal.SIGKILL)
  return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _work(
  sock: socket.socket,
  handler: Handler,
  limits: Mapping[str, int],
  layers: confine.Layers,
) -> None:
  """A worker's life, after the fork. Never returns."""
  code = 1
  try:
    confine.enter(layers, **limits)
    while True:
      request = read_frame(sock)
      try:
        reply = {'status': 'ok', 'value': handler(request)}
      except MemoryError:
        reply = {'status': 'oom'}
      except Exception as e:  # the pool counts it; the host must not stop
        reply = {'status': 'error', 'detail': type(e).__name__}
      write_frame(sock, reply)
      if reply['status'] == 'oom':
        code = OOM_EXIT  # what the handler left behind may fill the memory
        break
  except MemoryError:
    code = OOM_EXIT
  except EOFError:
    code = 0
  finally:
    os._exit(code)
