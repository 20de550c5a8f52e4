"""The local engine: a pool of fork servers, one per core.

In: programs and suites, from any number of threads; out: outcomes. The pool
finds the best jail tier that this machine gives, says which in `describe()`,
and refuses to start below tier 2 unless told. A server that fails is
replaced, and its program tried once more on the new one.
"""

from collections.abc import Sequence
import logging
import os
import queue
import sys
from typing import Any

from restem_jax.rewards.sandbox import jail
from restem_jax.rewards.sandbox.slot import SandboxError, Slot
from restem_jax.rewards.sandbox.suite import Limits, Outcome, Suite

_FIRST_UID = 61000  # of the sandbox's users when root: one per slot
_THREADS = 128
_MORE_THREADS = 2048


class SandboxPool:
  """Engine on this machine. Linux, x86-64 or aarch64."""

  def __init__(
    self,
    *,
    slots: int | None = None,
    tiers: Sequence[int] = jail.TIERS,
    preload: Sequence[str] = (),
    allow_unsafe_execution: bool = False,
  ):
    """Starts the first fork server, to learn the tier.

    Args:
      slots: programs run at a time; None: one per core of this process.
      tiers: jail tiers to try, in order (see `jail`).
      preload: packages that programs may import and read, and no others; loaded
        once per server ('numpy': 1 ms per program instead of 50).
      allow_unsafe_execution: takes tier 0 when no other is to be had: model
        code may then read this user's files.

    Raises:
      RuntimeError: if no tier is to be had.
      ValueError: for tier 0 without allow_unsafe_execution.
    """
    if sys.platform != 'linux':
      raise RuntimeError(
        'running model code needs Linux; elsewhere use the remote engine, '
        'SandboxFusion'
      )
    self._config = {
      'preload': list(preload),
      'packages': _site_packages() if preload else [],
    }
    self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
    self._slots: list[Slot | None] = []
    self._closed = False
    count = slots or len(os.sched_getaffinity(0))
    wanted = (*tiers, 0) if allow_unsafe_execution else tuple(tiers)
    if 0 in wanted and not allow_unsafe_execution:
      raise ValueError('tier 0 needs allow_unsafe_execution=True')
    self._tier = self._probe(wanted)
    # The others start when first used, in the threads that use them.
    self._slots += [None] * (count - 1)
    for number in range(count):
      self._free.put(number)

  @property
  def concurrency(self) -> int:
    """Number of slots."""
    return len(self._slots)

  def describe(self) -> dict[str, Any]:
    """{'engine': 'local', 'tier', 'landlock', 'uid', 'slots'}."""
    return {'engine': 'local', 'slots': self.concurrency, **self._state}

  def judge(self, program: str, suite: Suite, limits: Limits) -> Outcome:
    """Runs the program; waits for a free slot. See `suite.Engine`."""
    number = self._free.get()
    try:
      return self._judge(number, program, suite, limits)
    finally:
      self._free.put(number)

  def close(self) -> None:
    """Ends all servers; programs still running come back as 'infra'."""
    self._closed = True
    for number, slot in enumerate(self._slots):
      if slot:
        slot.close()
        self._slots[number] = None

  def _judge(
    self, number: int, program: str, suite: Suite, limits: Limits
  ) -> Outcome:
    error = 'the pool is closed'
    for _ in range(2):
      if self._closed:
        break
      try:
        slot = self._slots[number]
        if slot is None:
          slot = self._slots[number] = self._start(number, self._tier)
        return slot.judge(program, suite, limits)
      except SandboxError as e:
        error = str(e)
        logging.warning('sandbox slot %d: %s', number, e)
        if slot := self._slots[number]:
          self._slots[number] = None
          slot.close()
    return Outcome(status='infra', detail=error)

  def _probe(self, tiers: Sequence[int]) -> int:
    """Starts slot 0 in the first tier that works."""
    refused = []
    for tier in tiers:
      try:
        slot = self._start(0, tier)
      except SandboxError as e:
        refused.append(f'tier {tier}: {e}')
        continue
      self._slots.append(slot)
      self._state = slot.state
      return tier
    raise RuntimeError(
      'no jail for model code on this machine '
      f'({"; ".join(refused)}). Use a kernel with Landlock (5.13) or user '
      'namespaces, or the remote engine; or, if the model may read every file '
      'of this user, set allow_unsafe_execution=True'
    )

  def _start(self, number: int, tier: int) -> Slot:
    threads = _THREADS
    if tier != 1 and os.getuid():
      # The limit counts all of this user's threads, JAX's own included.
      threads = _count_threads() + _MORE_THREADS
    return Slot(
      {
        **self._config,
        'tier': tier,
        'uid': _FIRST_UID + number,
        'threads': threads,
      }
    )


def _site_packages() -> list[str]:
  return [p for p in sys.path if p.endswith(('site-packages', 'dist-packages'))]


def _count_threads() -> int:
  """Threads of this process's user."""
  count, user = 0, os.getuid()
  for name in os.listdir('/proc'):
    try:
      if name.isdigit() and os.stat(f'/proc/{name}').st_uid == user:
        count += len(os.listdir(f'/proc/{name}/task'))
    except OSError:  # it has ended
      continue
  return count
