"""Landlock: this process and its children see only the paths given.

In: directories and files to read or list; out: the kernel's ABI number, and from
then on every other path is refused for reading, listing and writing, TCP is
refused (ABI 4), and so are abstract sockets and signals to the outside (ABI 6).

Not covered by Landlock at any ABI: stat, chmod, chown, utime, extended
attributes; before ABI 3 truncate. The system call filter refuses those that
change something. Source: Linux, Documentation/userspace-api/landlock.rst.

PyPI `landlock` (1.0.0.dev5) and `py-landlock` were not taken: pre-releases
that don't know the network and scope rights, for three system calls.
"""

from collections.abc import Iterable
import os
import stat
import struct

from restem_jax.rewards.sandbox import linux

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every machine
_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
# Number of file system rights that each ABI knows, from ABI 1 on.
_NUM_RIGHTS = (13, 14, 15, 15, 16)
_TCP = 0b11  # bind and connect
_SCOPES = 0b11  # abstract unix sockets, signals


def abi() -> int:
  """The kernel's Landlock version; 0 where there is none."""
  try:
    return linux.syscall(
      'landlock_create_ruleset', _CREATE_RULESET, None, 0, _VERSION
    )
  except OSError:
    return 0


def restrict(
  readable: Iterable[str],
  writable: Iterable[str] = (),
  listable: Iterable[str] = (),
) -> int:
  """Restricts this thread, for good. Paths that don't exist are left out.

  Args:
    readable: files, and directories with all beneath them.
    writable: files.
    listable: directories; they and those beneath may be listed, not read.

  Returns:
    The ABI in force.

  Raises:
    OSError: if the kernel has no Landlock or it is switched off.
  """
  version = abi()
  if not version:
    raise OSError('the kernel has no Landlock, or it is off')
  rights = (1 << _NUM_RIGHTS[min(version, len(_NUM_RIGHTS)) - 1]) - 1
  attributes = struct.pack(
    '=QQQ',
    rights,
    _TCP if version >= 4 else 0,
    _SCOPES if version >= 6 else 0,
  )
  size = 8 if version < 4 else 16 if version < 6 else 24
  ruleset = linux.syscall(
    'landlock_create_ruleset', _CREATE_RULESET, attributes, size, 0
  )
  for path in readable:
    _allow(ruleset, path, _READ_FILE | _READ_DIR)
  for path in writable:
    _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
  for path in listable:
    _allow(ruleset, path, _READ_DIR)
  linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
  linux.syscall('landlock_restrict_self', _RESTRICT_SELF, ruleset, 0)
  os.close(ruleset)
  return version


def _allow(ruleset: int, path: str, rights: int) -> None:
  try:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
  except FileNotFoundError:
    return
  if not stat.S_ISDIR(os.fstat(fd).st_mode):
    rights &= ~_READ_DIR
  rule = struct.pack('=Qi', rights, fd)
  linux.syscall('landlock_add_rule', _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
  os.close(fd)
