"""Where processes meet, and how they learn that one of them has died.

In: a key-value store that all processes share. Out: values that all agree on,
or an error that names who is missing. What is *not* here: starting, and who
this process is (`multihost`).

Meetings need no device, so one may wait as long as sampling lasts. Besides,
each process says every second that it lives. When one falls silent or fails,
process 0 says so to the others, and all stop with a line that names it; for
process 0, process 1 does. The store outlives process 0 (`rendezvous`), but not
its machine: who can't reach the store any more stops by itself.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import json
import logging
import socket
import threading
import time
from typing import Protocol, TypeVar

import jax

from restem_jax.rendezvous import Missing

_log = logging.getLogger(__name__)

T = TypeVar('T')
_STOP = 'restem/stop'
AGAIN = (
  'run the same command on all hosts again, on any number of them: it goes on '
  'from what is complete'
)


class Store(Protocol):
  """The part of jax's distributed client that is used here."""

  def key_value_set(
    self, key: str, value: str, allow_overwrite: bool = False
  ) -> None: ...

  def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...

  def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...

  def key_value_delete(self, key: str) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How the processes find each other.

  Attributes:
    coordinator_address: host:port of process 0; None asks the environment
      (TPU metadata, SLURM, Open MPI, Kubernetes), and so for the others.
    process_count: how many processes there are.
    process_index: which one this is, from 0.
    host_timeout: seconds of silence after which a host counts as dead.
    barrier_timeout: seconds that a meeting waits for hosts that live.
  """

  coordinator_address: str | None = None
  process_count: int | None = None
  process_index: int | None = None
  host_timeout: float = 100.0
  barrier_timeout: float = 3600.0


class Hosts:
  """One process among `count`."""

  def __init__(
    self,
    store: Store | None = None,
    index: int = 0,
    count: int = 1,
    options: Options = Options(),
    leave: Callable[[str], None] | None = None,
  ):
    """Connects to nobody; `watch` starts the heartbeat.

    Args:
      store: shared by all; None if there is one process.
      index: of this process.
      count: of all.
      options: its timeouts are used.
      leave: ends this process, given the reason.
    """
    self.index, self.count, self.options = index, count, options
    self._store, self._leave = store, leave
    self._names = [f'process {p}' for p in range(count)]
    self._num_meetings = 0
    # Seconds that this process has run: nobody is silent while it is stopped.
    self._clock, self._ticked = 0.0, time.monotonic()
    self._reached = 0.0  # the clock when the store answered last
    self._closed, self._told = threading.Event(), threading.Event()
    self._threads: list[threading.Thread] = []

  # Meetings.

  def introduce(self) -> None:
    """Tells the others this host's name, for messages."""
    names = self.gather('start', socket.gethostname())
    self._names = [f'process {p} ({name})' for p, name in enumerate(names)]

  def gather(self, what: str, value: T) -> list[T]:
    """What each process brings, by its index; all must come.

    Args:
      what: names the meeting in messages.
      value: anything that JSON can hold.

    Raises:
      Missing: a process did not come within the barrier timeout.
    """
    if self._store is None:
      return [value]
    self._num_meetings += 1
    key = f'restem/{self._num_meetings}'
    text = json.dumps([what, value])
    self._store.key_value_set(f'{key}/at/{self.index}', text)
    deadline = time.monotonic() + self.options.barrier_timeout
    if self.index == 0:
      each = [
        self._wait(key, f'{key}/at/{p}', what, deadline)
        for p in range(self.count)
      ]
      self._store.key_value_set(f'{key}/all', f'[{",".join(each)}]')
      # All have come here, so all have read what came before.
      self._store.key_value_delete(f'restem/{self._num_meetings - 1}')
    rows = json.loads(self._wait(key, f'{key}/all', what, deadline))
    for p, (other, _) in enumerate(rows):
      if other != what:
        raise Missing(
          f'{self._names[p]} is at "{other}", {self._names[self.index]} at '
          f'"{what}": start all hosts with the same command'
        )
    return [value for _, value in rows]

  def _wait(self, key: str, name: str, what: str, deadline: float) -> str:
    assert self._store is not None
    while True:
      left = deadline - time.monotonic()
      try:
        wait = int(1000 * min(max(left, 0.001), 60.0))
        return self._store.blocking_key_value_get(name, wait)
      except jax.errors.JaxRuntimeError as e:
        if 'DEADLINE_EXCEEDED' not in str(e):
          raise
      came = {int(k.split('/')[-1]) for k, _ in
              self._store.key_value_dir_get(f'{key}/at')}  # fmt: skip
      late = ', '.join(
        name for p, name in enumerate(self._names) if p not in came
      )
      if left <= 60:
        raise Missing(
          f'{what}: {late or self._names[0]} did not come within '
          f'{self.options.barrier_timeout:g} s; {AGAIN}'
        )
      _log.info('%s: waiting for %s', what, late or self._names[0])

  # Life and death.

  def watch(self) -> None:
    """Starts to say that this process lives, and to see who does not."""
    for work in (self._beat, self._tick):
      self._threads.append(threading.Thread(target=work, daemon=True))
      self._threads[-1].start()

  def _tick(self) -> None:
    """Ends the process when the store does not answer: calls to it may hang."""
    while not (self._closed.wait(0.5) or self._told.is_set()):
      self._pass_time()
      # A little later than others count as silent: their names come first.
      if self._clock - self._reached > self.options.host_timeout + 2:
        self._stopped(
          f'{self._names[0]}, which all others meet at, has been silent for '
          f'{self.options.host_timeout:g} s'
        )
        return

  def _pass_time(self) -> None:
    now = time.monotonic()
    self._clock += min(now - self._ticked, 2.0)
    self._ticked = now

  def _beat(self) -> None:
    """Every second; ends the process when another one has died."""
    store = self._store
    assert store is not None
    seen: dict[int, tuple[str, float]] = {}
    beats = 0
    while not self._closed.is_set():
      beats += 1
      try:
        store.key_value_set(
          f'restem/alive/{self.index}', str(beats), allow_overwrite=True
        )
        # Process 1 says it of process 0, and in the same words of others.
        if self.index < 2 and (silent := self._silent(seen)):
          self.stop_all(
            f'{silent} has been silent for {self.options.host_timeout:g} s'
          )
        self._reached = self._clock
        # Waits here: what stops the others is known at once.
        reason = store.blocking_key_value_get(_STOP, 1000)
      except jax.errors.JaxRuntimeError as e:
        if 'DEADLINE_EXCEEDED' in str(e) or self._closed.is_set():
          continue
        reason = f'{self._names[0]}, which all others meet at, is gone'
      self._stopped(reason)
      return

  def _stopped(self, reason: str) -> None:
    self._told.set()
    if not self._closed.is_set() and self._leave is not None:
      self._leave(reason)

  def _silent(self, seen: dict[int, tuple[str, float]]) -> str:
    """Names of the processes whose heartbeat has stopped."""
    assert self._store is not None
    beats = {int(k.split('/')[-1]): v for k, v in
             self._store.key_value_dir_get('restem/alive')}  # fmt: skip
    for p in range(self.count):
      beat = beats.get(p, '')
      if p not in seen or seen[p][0] != beat:
        seen[p] = beat, self._clock
    return ', '.join(
      name
      for p, name in enumerate(self._names)
      if self._clock - seen[p][1] > self.options.host_timeout
    )

  def stop_all(self, reason: str) -> None:
    """Has every process stop with this reason; the first one counts."""
    if self._store is not None:
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        self._store.key_value_set(_STOP, reason)

  def close(self) -> None:
    """Ends the heartbeat; from here on nobody's death matters."""
    self._closed.set()
    for thread in self._threads:
      thread.join(5)  # it may hang in a call to a store that is gone

  def fail(self, error: BaseException) -> None:
    """Stops all because of an error here; who caused it is found out first.

    When a host dies, the collectives of the others fail. They are not to
    blame: they wait until the heartbeat has named the dead one.
    """
    me = self._names[self.index]
    line = str(error).partition('\n')[0]
    reason = f'{me} failed: {type(error).__name__}: {line}'
    if isinstance(error, Missing):
      reason = str(error)
    elif isinstance(error, jax.errors.JaxRuntimeError) or 'Gloo' in str(error):
      _log.warning('%s: %s', me, line)
      # Unless it is told, and ends there, nobody has died.
      self._told.wait(self.options.host_timeout + 5)
    self._closed.set()  # first: this process ends with its own error
    self.stop_all(reason)
    self.close()
