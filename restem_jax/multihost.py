"""Several processes, one per host: start-up, and who this one is.

In: flags or a cluster's environment. Out: which process this is, its share of
a work, values that all processes agree on. What is *not* here: how they meet
(`meetings`), arrays over hosts (`partitioning`), what is shared out (`em`).

With one process (nothing was started) every function here is a plain call.
Files are whole or absent, so whatever ends a run, the same command goes on
from what is complete.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import logging
import os
import re
import signal
import socket
import sys
from typing import Any, TypeVar

import jax
from jax._src import distributed  # the store has no public name
from jax.experimental import multihost_utils
import numpy as np

from restem_jax import rendezvous
from restem_jax.meetings import AGAIN, Hosts, Options

_log = logging.getLogger(__name__)

T = TypeVar('T')
_hosts = Hosts()
_failed = False


def index() -> int:
  """Which process this is, from 0."""
  return _hosts.index


def count() -> int:
  """How many processes there are."""
  return _hosts.count


def is_first() -> bool:
  """Whether this process writes what all share."""
  return _hosts.index == 0


def share(items: Sequence[T]) -> list[T]:
  """This process's part of what all have in the same order."""
  return list(items[_hosts.index :: _hosts.count])


def gather(what: str, value: T) -> list[T]:
  """See `Hosts.gather`."""
  return _hosts.gather(what, value)


def barrier(what: str) -> None:
  """Returns when all processes have come.

  Raises:
    Missing: as `Hosts.gather`.
  """
  _hosts.gather(what, None)


def first(what: str, fn: Callable[[], T]) -> T:
  """What `fn` gives on process 0, on all processes; others don't call it.

  Args:
    what: names the meeting in messages.
    fn: its value must be what JSON can hold.
  """
  return _hosts.gather(what, fn() if is_first() else None)[0]  # pyright: ignore


def any_host(flag: bool) -> bool:
  """Whether any process says so; all must ask, at the same step.

  Over the devices' network: milliseconds, where a meeting takes a second.
  """
  if _hosts.count == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def failed() -> bool:
  """Whether this process must end without waiting for the others."""
  return _failed


def _leave(reason: str) -> None:
  """Ends the process from any thread: the main one may hang for good."""
  sys.stderr.write(f'error: {reason}; the others stop. {AGAIN.capitalize()}\n')
  sys.stderr.flush()
  os._exit(1)


@contextlib.contextmanager
def started(options: Options) -> Iterator[None]:
  """Connects this process with the others while the context lasts.

  When it is left by an error, the others are told, and `failed` is true from
  then on: the caller is to end the process with `os._exit`, since jax's own
  clean-up at exit would wait for them.

  Raises:
    ValueError: the environment does not say what the flags leave out.
    Missing: not all have started, or they are no run; names who.
  """
  global _hosts, _failed
  kept = _initialize(options)
  _hosts = Hosts(
    distributed.global_state.client,
    distributed.global_state.process_id,
    distributed.global_state.num_processes,
    options,
    _leave,
  )
  try:
    _hosts.watch()
    _hosts.introduce()
    _log.info(
      'process %d of %d, %d of %d devices', _hosts.index, _hosts.count,
      jax.local_device_count(), jax.device_count(),
    )  # fmt: skip
    yield
    barrier('the end')
  except BaseException as e:
    _failed = True
    _hosts.fail(e)
    raise
  _hosts.close()
  _hosts = Hosts()
  jax.distributed.shutdown()
  for connection in kept:
    connection.close()


def _devices() -> list[int] | None:
  """What jax is told of this process's devices: [] for all, None to find out.

  Under SLURM and Open MPI it takes one device a process, also where a node has
  eight and one process.
  """
  tasks = os.environ.get('SLURM_STEP_TASKS_PER_NODE')  # such as 1(x4)
  if tasks is None:
    tasks = os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE', '')
  alone = re.fullmatch(r'1(\(x\d+\))?', tasks)
  return [] if alone and 'JAX_LOCAL_DEVICE_IDS' not in os.environ else None


def _initialize(options: Options) -> list[socket.socket]:
  """`jax.distributed.initialize`, but all meet before it (`rendezvous`).

  Returns connections that are to stay open as long as the store is used.
  """
  jaxlib: Any = vars(distributed)['_jax']  # a module
  make_service = jaxlib.get_distributed_runtime_service
  make_client = jaxlib.get_distributed_runtime_client
  timeout = options.host_timeout
  kept = []

  def service(address: str, count: int, **arguments: Any) -> rendezvous.Place:
    return rendezvous.Place(address, count, timeout, **arguments)

  def client(address: str, index: int, **arguments: Any) -> Any:
    count = distributed.global_state.num_processes
    waiting = 'process %d of %d: waiting for the others; start the same command'
    kept.append(
      rendezvous.meet(
        address, index, count, timeout,
        lambda: _log.warning(f'{waiting} there', index, count),
      )
    )  # fmt: skip
    return make_client(address, index, **arguments)

  try:
    jaxlib.get_distributed_runtime_service = service
    jaxlib.get_distributed_runtime_client = client
    jax.distributed.initialize(
      options.coordinator_address,
      options.process_count,
      options.process_index,
      _devices(),
      cluster_detection_method=(
        None if options.coordinator_address is None else 'deactivate'
      ),
      # Its own messages are worse: the heartbeat here comes first.
      heartbeat_timeout_seconds=int(timeout) + 60,
      shutdown_timeout_seconds=int(timeout),
    )
  except ValueError as e:
    raise ValueError(
      f'--distributed: the environment does not say it all ({e}); write '
      '--coordinator_address=HOST:PORT --process_count=N --process_index=I'
    ) from None
  finally:
    jaxlib.get_distributed_runtime_service = make_service
    jaxlib.get_distributed_runtime_client = make_client
  # jaxlib's handler would swallow it; `training.trainer` has its own.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  return kept
