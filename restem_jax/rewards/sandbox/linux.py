"""The Linux calls that Python 3.11 does not wrap, by ctypes.

In: plain integers, bytes and paths; out: the call's result, or OSError with
the call's name. What is *not* here: what the calls are used for (`seccomp`,
`landlock`, `namespaces`, `zygote`).
"""

import ctypes
import os
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)
_PRCTL = _LIBC.prctl
_PRCTL.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_SYSCALL = _LIBC.syscall
_SYSCALL.restype = ctypes.c_long
_PID = struct.Struct('=I')

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000


class _SockFprog(ctypes.Structure):
  """struct sock_fprog: a seccomp filter and its length in instructions."""

  _fields_ = (('length', ctypes.c_ushort), ('filter', ctypes.c_void_p))


def _check(result: int, call: str) -> int:
  if result < 0:
    number = ctypes.get_errno()
    raise OSError(number, f'{call}: {os.strerror(number)}')
  return result


def syscall(call: str, number: int, *args: int | bytes | None) -> int:
  """Any call: integers go as long, bytes as a pointer to them."""
  words = [
    a if a is None or isinstance(a, bytes) else ctypes.c_long(a) for a in args
  ]
  return _check(_SYSCALL(ctypes.c_long(number), *words), call)


def trim_heap() -> None:
  """Gives free pages of the C heap back, which a fork would share for nothing."""
  _LIBC.malloc_trim(ctypes.c_size_t(0))


def prctl(option: int, value: int = 0) -> None:
  """Sets an attribute of this process, PR_SET_*."""
  _check(_PRCTL(option, value, 0, 0, 0), f'prctl({option})')


def install_filter(program: bytes | bytearray) -> None:
  """Adds a seccomp filter to this thread, for good; children inherit it."""
  ProcessFilter(bytes(program)).install()


class ProcessFilter:
  """A seccomp filter that may name the process it is for, ready to install.

  Made in the server once: a child only writes its id and makes the call.
  """

  def __init__(self, program: bytes, stand_in: int | None = None):
    """The filter's code, with `stand_in` in the place of the process id."""
    self._code = ctypes.create_string_buffer(program, len(program))
    self._fprog = _SockFprog(len(program) // 8, ctypes.addressof(self._code))
    self._address = ctypes.addressof(self._fprog)
    self._places = [
      at
      for at in range(4, len(program), 8)
      if _PID.unpack_from(program, at) == (stand_in,)
    ]

  def install(self, pid: int = 0) -> None:
    """Adds the filter to this thread, for good; children inherit it."""
    for place in self._places:
      _PID.pack_into(self._code, place, pid)
    _check(
      _PRCTL(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._address, 0, 0),
      'seccomp',
    )


def drop_capabilities(capset_number: int) -> None:
  """Empties every capability set of this thread, bounding set included."""
  for capability in range(64):
    try:
      prctl(PR_CAPBSET_DROP, capability)
    except OSError:  # past the last one, or not ours to drop
      break
  header = _CAPABILITY_VERSION_3.to_bytes(4, 'little') + bytes(4)
  syscall('capset', capset_number, header, bytes(24))


def unshare(flags: int) -> None:
  """Leaves the namespaces named by CLONE_NEW* flags."""
  _check(_LIBC.unshare(ctypes.c_int(flags)), 'unshare')


def mount(
  source: str, target: str, kind: str = '', flags: int = 0, data: str = ''
) -> None:
  """Mounts, binds or remounts."""
  result = _LIBC.mount(
    os.fsencode(source),
    os.fsencode(target),
    kind.encode() or None,
    ctypes.c_ulong(flags),
    data.encode() or None,
  )
  _check(result, f'mount {source} on {target}')


def unmount(target: str) -> None:
  """umount2(2), lazily."""
  _check(_LIBC.umount2(os.fsencode(target), MNT_DETACH), f'umount {target}')


def set_mount_flags(target: str, number: int, flags: int) -> None:
  """Adds MS_* flags to a mount and all mounts below it (Linux 5.12)."""
  attributes = flags.to_bytes(8, 'little') + bytes(24)
  syscall(
    f'mount_setattr {target}',
    number,
    _AT_FDCWD,
    os.fsencode(target),
    _AT_RECURSIVE,
    attributes,
    len(attributes),
  )


def pivot_root(new: str, old: str, number: int) -> None:
  """Changes the root: `new` becomes /, the old root appears at `old`."""
  syscall('pivot_root', number, os.fsencode(new), os.fsencode(old))
