"""The system call filters, assembled as BPF.

In: an architecture; out: filters as bytes for `linux`.

- `base_filter`: an allow-list for the fork server and all its children. What
  is not listed gets ENOSYS, so that libraries fall back as they do on an old
  kernel; what only an attacker (or a program that wants a shell) calls kills
  the process with SIGSYS, which is how the supervisor learns of a violation.
- `child_filter`: added in each child on top of it; takes back what only the
  server needs (fork, signals to others, more filters, passing descriptors).

Two filters, because one full filter per child costs 1.4 ms of CPU, and the
small one 0.1 ms. No process can be forked in a child, so RLIMIT_AS caps the
memory of the whole program.

- `worker_filter`: for processes that run our own code on model text and only
  compute (`rewards.confine`).

pyseccomp (PyPI) was not taken: it needs libseccomp.so on the machine, and
assembling is 30 lines. The filters don't hold secrets and don't depend on the
job; only the child's own process id is written into its copy.
"""

import errno
import struct

from restem_jax.rewards.sandbox.syscalls import Architecture

ALLOW = 0x7FFF0000
KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS


def _refuse(number: int) -> int:
  return 0x00050000 | number  # SECCOMP_RET_ERRNO


def _words(text: str) -> tuple[str, ...]:
  return tuple(text.split())


# What a Python program needs; none of it reaches past its own process, and
# the file system it sees is read-only.
_ALLOWED = _words("""
  read write readv writev pread64 pwrite64 preadv pwritev lseek close
  close_range fstat newfstatat stat lstat statx statfs fstatfs open openat
  access faccessat faccessat2 readlink readlinkat getdents getdents64 getcwd
  chdir fchdir flock fadvise64 fsync fdatasync ftruncate fallocate sendfile
  copy_file_range dup dup2 dup3 pipe pipe2 poll ppoll select pselect6
  epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
  eventfd2 mmap munmap mprotect mremap madvise msync brk membarrier futex
  futex_waitv rseq set_robust_list get_robust_list set_tid_address arch_prctl
  restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending
  rt_sigtimedwait rt_sigsuspend sigaltstack pause alarm getitimer setitimer
  clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times
  getrusage getpid gettid getppid getuid geteuid getgid getegid getgroups
  getresuid getresgid getpgrp getpgid getsid uname sysinfo getcpu sched_yield
  sched_getaffinity getrandom umask getrlimit setrlimit getpriority exit
  exit_group wait4 waitid recvfrom shutdown getsockname getpeername getsockopt
""")

# The server's own; `child_filter` says what becomes of each in a child.
_SERVER = _words("""
  clone kill tgkill prctl prlimit64 seccomp sendmsg recvmsg pidfd_open
  pidfd_send_signal
""")

# Never by accident: these end the program as a violation.
_KILLED = _words("""
  fork vfork execve execveat tkill rt_sigqueueinfo rt_tgsigqueueinfo
  pidfd_getfd ptrace process_vm_readv process_vm_writev kcmp process_madvise
  mount umount2 pivot_root chroot unshare setns open_tree move_mount fsopen
  fsmount mount_setattr setuid setgid setreuid setregid setresuid setresgid
  setfsuid setfsgid setgroups capset bpf perf_event_open userfaultfd
  io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl
  init_module finit_module delete_module kexec_load kexec_file_load reboot
  swapon swapoff acct open_by_handle_at
""")

# What it takes to compute, and to talk over a socket that is open.
_COMPUTING = _words("""
  read write close lseek fstat mmap munmap mprotect mremap madvise brk futex
  rseq set_robust_list membarrier restart_syscall rt_sigaction rt_sigprocmask
  rt_sigreturn sigaltstack clock_gettime clock_getres clock_nanosleep nanosleep
  gettimeofday time times getrusage getpid gettid getppid getuid geteuid getgid
  getegid getrandom sched_yield poll ppoll select pselect6 recvfrom shutdown
  exit exit_group
""")

OWN_ID = 0x7FFFFFF1  # stands for the child's process id; no id is so high
_CLONE_THREAD = 0x00010000
_AF_UNIX = 1
# fcntl: F_SETOWN and F_SETSIG are missing on purpose: with them a program has
# the kernel signal any process of its user.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1033, 1034)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_PRCTL = (15, 16)  # a thread's name

_LOAD, _EQUAL, _GREATER_EQUAL, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data


def _instruction(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
  return struct.pack('=HBBI', code, yes, no, k)


def _return(action: int) -> bytes:
  return _instruction(_RETURN, action)


def _argument(index: int, high: bool = False) -> bytes:
  return _instruction(_LOAD, 16 + 8 * index + 4 * high)


def _one_of(index: int, values: tuple[int, ...], yes: int, no: int) -> bytes:
  """For arguments that the kernel takes as 32-bit integers."""
  tests = b''.join(
    _instruction(_EQUAL, value, 0, 1) + _return(yes) for value in values
  )
  return _argument(index) + tests + _return(no)


def _null(index: int, yes: int, no: int) -> bytes:
  return (
    _argument(index)
    + _instruction(_EQUAL, 0, 0, 3)
    + _argument(index, high=True)
    + _instruction(_EQUAL, 0, 0, 1)
    + _return(yes)
    + _return(no)
  )


def _thread_only(no: int) -> bytes:
  return (
    _argument(0)
    + _instruction(_BITS, _CLONE_THREAD, 0, 1)
    + _return(ALLOW)
    + _return(no)
  )


def _assemble(
  machine: Architecture, rules: dict[str, bytes], default: int
) -> bytes:
  """Filter: the rule of the call's number (each ends in a return), or else."""
  parts = [
    _instruction(_LOAD, _ARCH),
    _instruction(_EQUAL, machine.audit, 1, 0),
    _return(KILL),
    _instruction(_LOAD, _NUMBER),
    # x32 numbers on x86-64 alias other calls; no other machine has any.
    _instruction(_GREATER_EQUAL, 0x40000000, 0, 1),
    _return(KILL),
  ]
  for name, rule in rules.items():
    if name in machine.numbers:
      parts.append(
        _instruction(_EQUAL, machine.numbers[name], 0, len(rule) // 8)
      )
      parts.append(rule)
  return b''.join(parts) + _return(default)


def base_filter(machine: Architecture) -> bytes:
  """The allow-list for the fork server and everything below it."""
  denied = _refuse(errno.EACCES)
  rules = {name: _return(ALLOW) for name in (*_ALLOWED, *_SERVER)}
  rules |= {name: _return(KILL) for name in _KILLED}
  rules |= {
    'fcntl': _one_of(1, _FCNTL, ALLOW, _refuse(errno.EPERM)),
    'ioctl': _one_of(1, _IOCTL, ALLOW, _refuse(errno.ENOTTY)),
    # getpwuid and the like ask a unix socket first: refused, not killed.
    'socket': _one_of(0, (_AF_UNIX,), denied, KILL),
    # asyncio's event loop wakes itself through a socket pair.
    'socketpair': _one_of(0, (_AF_UNIX,), ALLOW, KILL),
    'sendto': _null(4, ALLOW, denied),
    'connect': _return(denied),
    'bind': _return(denied),
  }
  return _assemble(machine, rules, _refuse(errno.ENOSYS))


def child_filter(machine: Architecture, *, may_receive: bool = False) -> bytes:
  """What a child loses of the base filter; names its process by OWN_ID.

  `may_receive`: leaves recvmsg, by which descriptors are passed (the tester).
  """
  denied = _refuse(errno.EPERM)
  rules = {
    'clone': _thread_only(KILL),
    'kill': _one_of(0, (OWN_ID,), ALLOW, KILL),
    'tgkill': _one_of(0, (OWN_ID,), ALLOW, KILL),
    'prctl': _one_of(0, _PRCTL, ALLOW, denied),
    'prlimit64': _one_of(0, (0, OWN_ID), ALLOW, denied),
    'seccomp': _return(denied),
    'sendmsg': _return(denied),
    'pidfd_open': _return(denied),
    'pidfd_send_signal': _return(KILL),
  }
  if not may_receive:
    rules['recvmsg'] = _return(denied)
  return _assemble(machine, rules, ALLOW)


def worker_filter(machine: Architecture) -> bytes:
  """The allow-list of a process that only computes; the rest gets EPERM."""
  rules = {name: _return(ALLOW) for name in _COMPUTING}
  rules |= {name: _return(KILL) for name in _KILLED}
  # No address: a message to the socket's other end, and to nobody else.
  rules['sendto'] = _null(4, ALLOW, _refuse(errno.EPERM))
  return _assemble(machine, rules, _refuse(errno.EPERM))
