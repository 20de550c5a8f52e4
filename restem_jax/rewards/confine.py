"""Takes from a process all that it does not need to compute.

In: limits, and the layers that this machine gives; out: this process, for
good, with nothing left but its memory, its clock and the sockets it has open.
What is *not* here: the jail of programs, which may read the standard library
and start threads (`sandbox.jail`, whose parts these are).

| layer | what it holds |
|---|---|
| another user | root is given up |
| rlimits | memory, CPU; no file, process or thread can be had |
| Landlock | no path can be opened, listed or changed, no TCP |
| seccomp | an allow-list without any call that names a path, a socket, a \
program or another process; some, such as exec, end the process |

Landlock and seccomp are tried once, by `available`, in a child: a kernel or a
container's profile may refuse them. Namespaces, the first tier of programs,
would add nothing: what they hide can't be named here.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import errno
import os
import resource
import signal

from restem_jax.rewards.sandbox import landlock, linux, seccomp, syscalls

_NOBODY = 65534


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
  """The optional layers that this machine gives."""

  landlock: bool
  seccomp: bytes  # the filter; b'' for none

  def missing(self) -> list[str]:
    """The names of those that it does not."""
    return [name for name in ('landlock', 'seccomp') if not getattr(self, name)]


def available() -> Layers:
  """Tries the layers, each in a child of this single-threaded process."""
  code = b''
  with contextlib.suppress(OSError):  # neither x86-64 nor aarch64
    code = seccomp.worker_filter(syscalls.table())
  return Layers(
    landlock=_works(_no_paths, errno.EACCES),
    seccomp=code
    if code and _works(lambda: _filter(code), errno.EPERM)
    else b'',
  )


def enter(layers: Layers, *, memory_limit: int, cpu_limit_s: int) -> None:
  """Confines this process; ends it if its parent has ended meanwhile.

  Args:
    layers: of `available`.
    memory_limit: address space in bytes.
    cpu_limit_s: CPU time in seconds.

  Raises:
    OSError: a layer that was there is not: nothing must run here.
  """
  parent = os.getppid()
  if os.getuid() == 0:
    # Inside a user namespace without the id there is nothing to change to.
    with contextlib.suppress(OSError):
      os.setgroups([])
    with contextlib.suppress(OSError):
      os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    with contextlib.suppress(OSError):
      os.setresuid(_NOBODY, _NOBODY, _NOBODY)
  linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
  linux.prctl(linux.PR_SET_DUMPABLE, 0)
  # After the change of user, which would clear it.
  linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:
    os._exit(1)
  if layers.landlock:
    _no_paths()  # needs a descriptor, which RLIMIT_NOFILE refuses
  for name, limit in (
    (resource.RLIMIT_AS, memory_limit),
    (resource.RLIMIT_CPU, cpu_limit_s),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_NPROC, 0),
    (resource.RLIMIT_NOFILE, 0),
  ):
    resource.setrlimit(name, (limit, limit))
  if layers.seccomp:
    _filter(layers.seccomp)


def _no_paths() -> None:
  landlock.restrict(())


def _filter(code: bytes) -> None:
  linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
  linux.install_filter(code)


def _works(confine: Callable[[], object], refusal: int) -> bool:
  """Whether a child so confined is refused the root directory."""
  pid = os.fork()
  if pid == 0:
    code = 1
    try:
      confine()
      os.close(os.open('/', os.O_RDONLY | os.O_DIRECTORY))
    except OSError as e:
      code = e.errno != refusal
    finally:
      os._exit(code)
  return os.waitpid(pid, 0)[1] == 0
