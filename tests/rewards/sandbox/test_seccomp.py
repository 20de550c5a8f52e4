import errno
import struct

import pytest

from restem_jax.rewards.sandbox import seccomp, syscalls

X86, ARM = (syscalls.ARCHITECTURES[n] for n in ('x86_64', 'aarch64'))


def run(program, machine, name, *args, arch=None):
  """What a filter decides: an interpreter of the few BPF codes used."""
  number = name if isinstance(name, int) else machine.numbers[name]
  args = [*args, *[0] * (6 - len(args))]
  data = struct.pack(
    '<IIQ6Q', number, machine.audit if arch is None else arch, 0, *args
  )
  at, accumulator = 0, 0
  while True:
    code, yes, no, k = struct.unpack_from('=HBBI', program, 8 * at)
    at += 1
    if code == 0x06:
      return k
    if code == 0x20:
      (accumulator,) = struct.unpack_from('<I', data, k)
      continue
    taken = {
      0x15: accumulator == k,
      0x35: accumulator >= k,
      0x45: bool(accumulator & k),
    }[code]
    at += yes if taken else no


def refused(number):
  return 0x00050000 | number


@pytest.mark.parametrize('machine', [X86, ARM], ids=['x86_64', 'aarch64'])
def test_base(machine):
  base = seccomp.base_filter(machine)
  assert run(base, machine, 'read') == seccomp.ALLOW
  assert run(base, machine, 'clone') == seccomp.ALLOW
  assert run(base, machine, 'execve') == seccomp.KILL
  assert run(base, machine, 'io_uring_setup') == seccomp.KILL
  # Not listed: as if the kernel did not know it.
  assert run(base, machine, 'clone3') == refused(errno.ENOSYS)
  assert run(base, machine, 999) == refused(errno.ENOSYS)
  # Another machine's calls, and x86-64's x32 aliases.
  assert run(base, machine, 'read', arch=0x40000003) == seccomp.KILL
  assert run(base, machine, 0x40000000) == seccomp.KILL


def test_base_arguments():
  base = seccomp.base_filter(X86)
  unix, inet, netlink = 1, 2, 16
  assert run(base, X86, 'socket', unix) == refused(errno.EACCES)
  assert run(base, X86, 'socket', inet) == seccomp.KILL
  assert run(base, X86, 'socket', netlink) == seccomp.KILL
  assert run(base, X86, 'socketpair', unix) == seccomp.ALLOW
  # An address, even one above 4 GiB, would reach a socket of the host.
  assert run(base, X86, 'sendto', 3, 0, 0, 0, 0) == seccomp.ALLOW
  assert run(base, X86, 'sendto', 3, 0, 0, 0, 8) == refused(errno.EACCES)
  high = 1 << 32
  assert run(base, X86, 'sendto', 3, 0, 0, 0, high) == refused(errno.EACCES)
  duplicate, set_owner = 0, 8
  assert run(base, X86, 'fcntl', 3, duplicate) == seccomp.ALLOW
  assert run(base, X86, 'fcntl', 3, set_owner) == refused(errno.EPERM)
  assert run(base, X86, 'ioctl', 0, 0x5412) == refused(errno.ENOTTY)


def test_child():
  child = seccomp.child_filter(X86)
  own = seccomp.OWN_ID
  thread, fork = 0x3D0F00, 0x1200011
  assert run(child, X86, 'clone', thread) == seccomp.ALLOW
  assert run(child, X86, 'clone', fork) == seccomp.KILL
  assert run(child, X86, 'kill', own) == seccomp.ALLOW
  for other in (0, 1, own + 1, (1 << 64) - 1):
    assert run(child, X86, 'kill', other) == seccomp.KILL
  assert run(child, X86, 'prlimit64', 0) == seccomp.ALLOW
  assert run(child, X86, 'prlimit64', 1) == refused(errno.EPERM)
  assert run(child, X86, 'recvmsg') == refused(errno.EPERM)
  assert run(child, X86, 'read') == seccomp.ALLOW  # the base decides

  tester = seccomp.child_filter(X86, may_receive=True)
  assert run(tester, X86, 'recvmsg') == seccomp.ALLOW


@pytest.mark.parametrize('machine', [X86, ARM], ids=['x86_64', 'aarch64'])
def test_worker(machine):
  worker = seccomp.worker_filter(machine)
  for name in ('read', 'write', 'mmap', 'futex', 'recvfrom', 'exit_group'):
    assert run(worker, machine, name) == seccomp.ALLOW
  for name in ('execve', 'ptrace', 'setresuid', 'io_uring_setup'):
    assert run(worker, machine, name) == seccomp.KILL
  denied = refused(errno.EPERM)
  for name in ('openat', 'newfstatat', 'socket', 'socketpair', 'clone', 'kill',
               'fcntl', 'dup', 'sendmsg', 'recvmsg', 'prctl'):  # fmt: skip
    assert run(worker, machine, name) == denied
  assert run(worker, machine, 'sendto', 3, 0, 0, 0, 0) == seccomp.ALLOW
  assert run(worker, machine, 'sendto', 3, 0, 0, 0, 8) == denied
  assert run(worker, machine, 999) == denied
  assert run(worker, machine, 'read', arch=0x40000003) == seccomp.KILL
