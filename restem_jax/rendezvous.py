"""Where all processes come first, and what outlives process 0.

In: an address, how many are to come. Out: jax's key-value store at that
address, or an error that says who did not come. What is *not* here: what is
done with the store (`meetings`).

jax's own start ends a process by abort() when another one is missing, and its
store ends with process 0, which jax again answers by abort(). So process 0
starts this file as a process of its own, which waits for all, tells all who is
missing, and keeps the store until the last of them has gone.
"""

from collections.abc import Callable, Mapping
import contextlib
import errno
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any


class Missing(RuntimeError):
  """A host did not come; the message names it."""


class Place:
  """The process that keeps the store; process 0 starts it."""

  def __init__(self, address: str, count: int, timeout: float, **store: Any):
    """Starts it; `meet` is how to find out whether it works.

    Args:
      address: what it listens at, [::]:port.
      count: how many processes are to come.
      timeout: seconds that it waits for them.
      **store: arguments of jaxlib's get_distributed_runtime_service.
    """
    settings = {'address': address, 'count': count, 'timeout': timeout}
    text = json.dumps(settings | {'store': store})
    # A session of its own: Ctrl-C is for the run.
    self._process = subprocess.Popen(
      [sys.executable, '-P', __file__, text],
      stdin=subprocess.PIPE,
      start_new_session=True,
    )

  def shutdown(self) -> None:
    """Ends the store; all have to be done with it."""
    with contextlib.suppress(BrokenPipeError):
      self._process.communicate(b'end\n')


def meet(
  address: str,
  index: int,
  count: int,
  timeout: float,
  waiting: Callable[[], None] = lambda: None,
) -> socket.socket:
  """Comes to the place and waits for the others.

  Args:
    address: host:port of process 0.
    index: of this process.
    count: of all.
    timeout: seconds; the place's.
    waiting: called once if the others let it wait for ten seconds.

  Returns:
    A connection to be kept open while this process needs the store.

  Raises:
    Missing: who is missing, or why they are no run.
  """
  late = threading.Timer(min(10.0, timeout / 2), waiting)
  late.daemon = True
  late.start()
  try:
    return _meet(address, index, count, timeout)
  finally:
    late.cancel()


def _meet(
  address: str, index: int, count: int, timeout: float
) -> socket.socket:
  host, _, port = address.rpartition(':')
  deadline = time.monotonic() + timeout
  while True:
    try:
      place = socket.create_connection((host.strip('[]'), int(port)), 5)
      break
    except OSError as e:
      if time.monotonic() > deadline:
        raise Missing(
          f'process 0 did not start within {timeout:g} s: nobody answers at '
          f'{address} ({e.strerror or e})'
        ) from None
      time.sleep(0.2)
  me = {'index': index, 'count': count, 'host': socket.gethostname()}
  # Its own limit comes first: its answer is the better one.
  place.settimeout(timeout + 15)
  try:
    place.sendall(json.dumps(me).encode() + b'\n')
    with place.makefile() as lines:
      answer = json.loads(lines.readline())
  except (OSError, ValueError) as e:
    place.close()
    raise Missing(
      f'process 0, or what else is at {address}, does not answer ({e})'
    ) from None
  if answer['error'] is not None:
    place.close()
    raise Missing(answer['error'])
  return place


# --- The place itself ---------------------------------------------------------

_Came = dict[int, tuple[socket.socket, str]]  # index: (connection, host name)


def serve(settings: Mapping[str, Any]) -> None:
  """Waits for all, then keeps the store until they have gone.

  Args:
    settings: `Place`'s.
  """
  address, count = settings['address'], settings['count']
  deadline = time.monotonic() + settings['timeout']
  host, _, port = address.rpartition(':')
  came: _Came = {}
  try:
    listener = _listen(host.strip('[]'), int(port), deadline)
  except OSError as e:
    # Nobody can come here; process 0 reads its log, and not what is there.
    raise SystemExit(
      f'error: cannot listen at port {port} of this host ({e.strerror}); write '
      'another port in --coordinator_address on all hosts'
    ) from None
  with listener:
    accepted: list[socket.socket] = []
    error = _gather(listener, count, deadline, came, accepted)
    if error is None and len(came) < count:
      late = ', '.join(str(p) for p in range(count) if p not in came)
      error = (
        f'process {late} did not start within {settings["timeout"]:g} s; start '
        'the same command on all hosts at once'
      )
    if error is not None:
      _tell(accepted, error)
      _refuse(listener, error)
      return
  connections = [connection for connection, _ in came.values()]
  import jaxlib._jax  # late: it takes a moment

  store = jaxlib._jax.get_distributed_runtime_service(  # pyright: ignore
    address, count, **settings['store']
  )
  _tell(connections)
  if sys.stdin.buffer.readline():
    store.shutdown()
    return
  # Process 0 has died: the others need the store to find out and say so.
  _wait_until_closed(connections, settings['timeout'] + 60)
  os._exit(1)  # the store's own end would wait for process 0


def _listen(host: str, port: int, deadline: float) -> socket.socket:
  """A listener; waits while an earlier run's place still holds the port."""
  while True:
    try:
      if socket.has_dualstack_ipv6() and host in ('::', ''):
        return socket.create_server(
          ('::', port), family=socket.AF_INET6, dualstack_ipv6=True
        )
      return socket.create_server(('' if host == '::' else host, port))
    except OSError as e:
      if e.errno != errno.EADDRINUSE or time.monotonic() > deadline:
        raise
      time.sleep(0.2)


def _gather(
  listener: socket.socket,
  count: int,
  deadline: float,
  came: _Came,
  accepted: list[socket.socket],
) -> str | None:
  """Fills `came` until all are there; what is wrong with them, or None."""
  selector = selectors.DefaultSelector()
  selector.register(listener, selectors.EVENT_READ)
  selector.register(sys.stdin, selectors.EVENT_READ)
  while len(came) < count and (left := deadline - time.monotonic()) > 0:
    for key, _ in selector.select(left):
      if key.fileobj is sys.stdin:
        return 'process 0 has ended'
      if key.fileobj is listener:
        accepted.append(listener.accept()[0])
        selector.register(accepted[-1], selectors.EVENT_READ)
        continue
      connection: Any = key.fileobj
      row = _row(connection)
      if row is None:  # it ended while it waited, or looks for open ports
        selector.unregister(connection)
        connection.close()
        for p in [p for p, v in came.items() if v[0] is connection]:
          del came[p]
        continue
      index, host = row['index'], row['host']
      if index in came:
        return (
          f'two processes have --process_index={index}, on {came[index][1]} '
          f'and on {host}; give each its own'
        )
      came[index] = connection, host
      if row['count'] != count:
        return (
          f'process {index} ({host}) has --process_count={row["count"]}, '
          f'process 0 has {count}; write the same'
        )
  return None


def _row(connection: socket.socket) -> dict[str, Any] | None:
  """What a process says of itself; None if it is gone or no process of ours."""
  try:
    row = json.loads(connection.recv(4096))
    return {'index': int(row['index']), **row}
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _tell(connections: list[socket.socket], error: str | None = None) -> None:
  for connection in connections:
    with contextlib.suppress(OSError):
      connection.sendall(json.dumps({'error': error}).encode() + b'\n')


def _refuse(listener: socket.socket, error: str) -> None:
  """Tells it to those who come a little later."""
  listener.settimeout(2)
  with contextlib.suppress(OSError):
    while True:
      connection, _ = listener.accept()
      _tell([connection], error)
      connection.recv(4096)  # closed with data unread, it would be reset


def _wait_until_closed(sockets: list[socket.socket], seconds: float) -> None:
  deadline = time.monotonic() + seconds
  for connection in sockets:
    with contextlib.suppress(OSError):
      connection.settimeout(max(0.1, deadline - time.monotonic()))
      connection.recv(1)


if __name__ == '__main__':
  # It ends with the run's processes, not by what is sent to all of a job.
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  serve(json.loads(sys.argv[1]))
