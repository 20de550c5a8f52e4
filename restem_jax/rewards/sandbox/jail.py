"""Where untrusted programs run: the tiers, and how a process enters one.

In: a `Jail` (tier, ids, directories); out: this process, confined for good.

| tier | layers |
|--:|---|
| 1 | namespaces + Landlock if there is one + seccomp + rlimits |
| 2 | Landlock + seccomp + rlimits (+ another user id when root) |
| 0 | seccomp + rlimits (+ another user id when root): unsafe |

The host tries them in this order (`host.SandboxPool`) and refuses tier 0
unless told. Each tier from 1 up holds by itself everything in the corpus of
hostile programs; tier 0 lets a program read the disk.

Why no ready-made jail: bubblewrap, nsjail, firejail and gVisor cost 17 to 170
ms per program, don't start in a container whose profile refuses namespaces,
and are binaries that a pod image lacks; sandlock (PyPI, 0.9) is close to tier
2 but young, and starts a Python per program (20 ms); RestrictedPython is no
boundary. These calls are the kernel's own and cost a fork server 10 ms once.
"""

import dataclasses
import os
import signal
import sys

from restem_jax.rewards.sandbox import (
  landlock,
  linux,
  namespaces,
  relocate,
  seccomp,
  view,
)
from restem_jax.rewards.sandbox.syscalls import Architecture

TIERS = (1, 2)  # in the order tried; 0 only when asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jail:
  """What to enter."""

  tier: int  # 1, 2 or 0
  uid: int  # user and group to change to when root
  packages: tuple[str, ...] = ()  # folders in site-packages to show


def enter(jail: Jail, machine: Architecture) -> dict[str, int]:
  """Confines this process; in tier 1 returns in a child, which is pid 1.

  The parent of that child waits for it and never returns.

  Returns:
    What is in force: tier, landlock (ABI or 0), uid as seen inside.

  Raises:
    OSError: if a layer of this tier can't be had.
  """
  root = _may_change_user(jail.uid)
  seen = view.of_python(jail.packages)
  if jail.tier == 1:
    namespaces.isolate(machine, seen, jail.uid if root else None)
    _continue_in_child()
    if root:
      _change_user(namespaces.INSIDE_ID)
  elif root and not relocate.reachable(os.path.dirname(os.__file__)):
    shown = [relocate.inside(p, sys.base_prefix) for p in jail.packages]
    relocate.change_root(sys.base_prefix)
    seen = view.of_python(shown, '/')
  abi = landlock.abi()
  if jail.tier == 2 or (jail.tier == 1 and abi):
    listed, readable = seen.rules()
    abi = landlock.restrict(readable, namespaces.DEVICES, listed)
  if jail.tier != 1 and root:
    _change_user(jail.uid)
  os.chdir('/')
  linux.drop_capabilities(machine.numbers['capset'])
  linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
  linux.prctl(linux.PR_SET_DUMPABLE, 0)
  if jail.tier == 1:  # here, because a change of user clears it
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
  linux.install_filter(seccomp.base_filter(machine))
  if jail.tier:
    _check()
  return {
    'tier': jail.tier,
    'landlock': abi if jail.tier else 0,
    'uid': os.getuid(),
  }


def _may_change_user(uid: int) -> bool:
  """Whether this is root over the sandbox's user id as well.

  Raises:
    OSError: for the machine's root in a namespace of its own id only: limits
      on the number of threads don't hold for it.
  """
  if os.getuid():
    return False
  with open('/proc/self/uid_map') as lines:
    maps = [tuple(map(int, line.split())) for line in lines]
  if any(first <= uid < first + count for first, _, count in maps):
    return True
  if any(first == 0 == outside for first, outside, _ in maps):
    raise OSError(f'root without the user id {uid} in its user namespace')
  return False  # an ordinary user who sees himself as root


def _continue_in_child() -> None:
  """Forks; the child goes on, the parent only waits for its end."""
  pid = os.fork()
  if pid:
    # The child's descriptors must not be held open here: their end is how
    # the host and the child notice each other's death.
    os.closerange(3, os.sysconf('SC_OPEN_MAX'))
    os.waitpid(pid, 0)
    os._exit(0)


def _change_user(uid: int) -> None:
  os.setgroups([])
  os.setresgid(uid, uid, uid)
  os.setresuid(uid, uid, uid)


def _check() -> None:
  """A jail that can read this file is none, whatever the calls returned."""
  for probe in ('/etc/passwd', '/proc/self/environ', '/proc/1/environ'):
    try:
      os.close(os.open(probe, os.O_RDONLY))
    except OSError:
      continue
    raise OSError(f'the jail does not hold: {probe} can be read')
