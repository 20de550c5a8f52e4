"""Tier 1: a private view of the machine, made of Linux namespaces.

In: what a Python program may read (`view`), and the ids to run as;
out: this process in new user, mount, pid, network, ipc, uts and cgroup
namespaces, its root an empty read-only tmpfs with those directories bound
read-only, no /proc, no network device. The next child is pid 1: when it ends,
the kernel kills everything in its pid namespace. What is *not* here: dropping
the ids and capabilities (`jail`).

Done once per fork server, never per program: a network namespace alone costs
1.1 ms. bubblewrap and nsjail do the same by an exec per program (17 and 22 ms)
or need a setuid binary or package that a pod image lacks, which is why these
calls are made here.
"""

import contextlib
import os
import socket

from restem_jax.rewards.sandbox import linux
from restem_jax.rewards.sandbox.syscalls import Architecture
from restem_jax.rewards.sandbox.view import View

INSIDE_ID = 65534  # user and group inside: nobody
DEVICES = ('/dev/null', '/dev/zero', '/dev/urandom')

_SMALL = 'mode=755,size=1m,nr_inodes=4k'  # of an empty tmpfs
_READ_ONLY = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
_ALL = (
  linux.CLONE_NEWUSER
  | linux.CLONE_NEWNS
  | linux.CLONE_NEWPID
  | linux.CLONE_NEWNET
  | linux.CLONE_NEWIPC
  | linux.CLONE_NEWUTS
  | linux.CLONE_NEWCGROUP
)


def isolate(machine: Architecture, view: View, outside_id: int | None) -> None:
  """Moves this process into the namespaces.

  Args:
    machine: the system call table.
    view: absolute directories; they appear under their own names.
    outside_id: when root, the host's uid and gid that INSIDE_ID is mapped to
      (the caller keeps uid 0 inside until it drops it); None: its own.

  Raises:
    OSError: if the kernel or a container's profile refuses a step.
  """
  _unshare(outside_id)
  socket.sethostname('sandbox')
  binds = [(os.path.realpath(p), p) for p in view.tops]
  shown = [(os.path.realpath(p), p) for p in view.shown]
  _build_root(machine, binds, view.covers(), shown)


def _unshare(outside_id: int | None) -> None:
  """Unshares; a helper that stayed outside writes the id maps."""
  this, user, group = os.getpid(), os.getuid(), os.getgid()
  wait, go = os.pipe()
  helper = os.fork()
  if helper == 0:
    status = 1
    with contextlib.suppress(BaseException):
      os.close(go)
      if os.read(wait, 1):
        _write_maps(this, user, group, outside_id)
        status = 0
    os._exit(status)
  os.close(wait)
  try:
    linux.unshare(_ALL)
    os.write(go, b'.')
  finally:
    os.close(go)
    _, status = os.waitpid(helper, 0)
  if status:
    raise OSError('the id maps of a user namespace cannot be written')


def _write_maps(
  pid: int, user: int, group: int, outside_id: int | None
) -> None:
  for name, own in (('uid_map', user), ('gid_map', group)):
    if outside_id is None:
      lines = f'{INSIDE_ID} {own} 1'
    else:
      # Root stays root while it binds, so that it can pass through a home
      # directory of mode 700 to the Python in it.
      lines = f'0 {own} 1\n{INSIDE_ID} {outside_id} 1'
    if name == 'gid_map' and outside_id is None:
      _write(f'/proc/{pid}/setgroups', 'deny')
    _write(f'/proc/{pid}/{name}', lines)


def _write(path: str, text: str) -> None:
  fd = os.open(path, os.O_WRONLY)
  try:
    os.write(fd, text.encode())  # the kernel wants a map in one write
  finally:
    os.close(fd)


def _build_root(
  machine: Architecture,
  binds: list[tuple[str, str]],
  covers: list[str],
  shown: list[tuple[str, str]],
) -> None:
  os.umask(0o022)  # the sandbox's user must get through what is made here
  pivot = machine.numbers['pivot_root']
  set_flags = machine.numbers['mount_setattr']
  linux.mount('none', '/', flags=linux.MS_REC | linux.MS_PRIVATE)
  # Two pivots: after the first, the host's tree lies whole under /old, so a
  # directory below the mount point itself (/tmp) can be bound as well.
  linux.mount('tmpfs', '/tmp', 'tmpfs', 0, 'mode=755')
  os.mkdir('/tmp/old')
  linux.pivot_root('/tmp', '/tmp/old', pivot)
  os.chdir('/')
  os.mkdir('/new')
  linux.mount('tmpfs', '/new', 'tmpfs', 0, _SMALL)
  _show(machine, binds)
  for target in covers:
    linux.mount('tmpfs', '/new' + target, 'tmpfs', 0, _SMALL)
  _show(machine, shown)
  for target in covers:
    linux.set_mount_flags('/new' + target, set_flags, _READ_ONLY)
  os.mkdir('/new/dev')
  for device in DEVICES:
    os.close(os.open('/new' + device, os.O_CREAT | os.O_WRONLY, 0o666))
    _bind(machine, '/old' + device, '/new' + device, linux.MS_NOEXEC)
  os.chdir('/new')
  linux.pivot_root('.', '.', pivot)
  linux.unmount('.')
  os.chdir('/')
  linux.mount(
    'none',
    '/',
    flags=linux.MS_REMOUNT | linux.MS_BIND | _READ_ONLY,
  )


def _show(machine: Architecture, binds: list[tuple[str, str]]) -> None:
  """Binds directories (source, name in the new root); inner ones come along."""
  done: list[str] = []
  for source, target in sorted(binds, key=lambda bind: bind[1]):
    if not os.path.isdir('/old' + source) or any(
      target.startswith(d + '/') for d in done
    ):
      continue
    os.makedirs('/new' + target, exist_ok=True)
    _bind(machine, '/old' + source, '/new' + target, linux.MS_NODEV)
    done.append(target)


def _bind(machine: Architecture, source: str, target: str, more: int) -> None:
  linux.mount(source, target, flags=linux.MS_BIND | linux.MS_REC)
  flags = linux.MS_RDONLY | linux.MS_NOSUID | more
  linux.set_mount_flags(target, machine.numbers['mount_setattr'], flags)
