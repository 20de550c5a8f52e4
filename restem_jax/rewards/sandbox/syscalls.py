"""System call numbers by name, for the architectures that the sandbox knows.

In: nothing; out: `table()`, the names and numbers of this machine. Only names
that the filter (`seccomp`) or the jail speaks of are listed; what is not here
is refused by the filter whatever its number. Source: Linux 6.1's
`arch/x86/entry/syscalls/syscall_64.tbl` and `asm-generic/unistd.h` (aarch64),
which never renumber. A name that an architecture lacks (aarch64 has no `open`,
`fork` or `poll`) is left out of its table.
"""

import os
from typing import NamedTuple


class Architecture(NamedTuple):
  """One machine: the kernel's audit token and its system calls."""

  audit: int  # AUDIT_ARCH_*, what seccomp_data.arch holds
  numbers: dict[str, int]


def _parse(text: str) -> dict[str, int]:
  return {
    name: int(number)
    for name, number in (word.split('=') for word in text.split())
  }


_X86_64 = """
  read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9
  mprotect=10 munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14
  rt_sigreturn=15 ioctl=16 pread64=17 pwrite64=18 readv=19 writev=20
  access=21 pipe=22 select=23 sched_yield=24 mremap=25 msync=26 madvise=28
  dup=32 dup2=33 pause=34 nanosleep=35 getitimer=36 alarm=37 setitimer=38
  getpid=39 sendfile=40 socket=41 connect=42 accept=43 sendto=44 recvfrom=45
  sendmsg=46 recvmsg=47 shutdown=48 bind=49 listen=50 getsockname=51
  getpeername=52 socketpair=53 setsockopt=54 getsockopt=55 clone=56 fork=57
  vfork=58 execve=59 exit=60 wait4=61 kill=62 uname=63 fcntl=72 flock=73
  fsync=74 fdatasync=75 ftruncate=77 getdents=78 getcwd=79 chdir=80
  fchdir=81 readlink=89 umask=95 gettimeofday=96 getrlimit=97 getrusage=98
  sysinfo=99 times=100 ptrace=101 getuid=102 getgid=104 setuid=105
  setgid=106 geteuid=107 getegid=108 setpgid=109 getppid=110 getpgrp=111
  setsid=112 setreuid=113 setregid=114 getgroups=115 setgroups=116
  setresuid=117 getresuid=118 setresgid=119 getresgid=120 getpgid=121
  setfsuid=122 setfsgid=123 getsid=124 capset=126 rt_sigpending=127
  rt_sigtimedwait=128 rt_sigqueueinfo=129 rt_sigsuspend=130 sigaltstack=131
  statfs=137 fstatfs=138 getpriority=140 pivot_root=155 prctl=157
  arch_prctl=158 setrlimit=160 chroot=161 acct=163 mount=165 umount2=166
  swapon=167 swapoff=168 reboot=169 init_module=175 delete_module=176
  gettid=186 tkill=200 time=201 futex=202 sched_getaffinity=204
  epoll_create=213 getdents64=217 set_tid_address=218 restart_syscall=219
  fadvise64=221 clock_gettime=228 clock_getres=229 clock_nanosleep=230
  exit_group=231 epoll_wait=232 epoll_ctl=233 tgkill=234 kexec_load=246
  waitid=247 add_key=248 request_key=249 keyctl=250 openat=257
  newfstatat=262 readlinkat=267 faccessat=269 pselect6=270 ppoll=271
  unshare=272 set_robust_list=273 get_robust_list=274 epoll_pwait=281
  fallocate=285 accept4=288 eventfd2=290 epoll_create1=291 dup3=292
  pipe2=293 preadv=295 pwritev=296 rt_tgsigqueueinfo=297 perf_event_open=298
  recvmmsg=299 prlimit64=302 open_by_handle_at=304 sendmmsg=307 setns=308
  getcpu=309 process_vm_readv=310 process_vm_writev=311 kcmp=312
  finit_module=313 seccomp=317 getrandom=318 kexec_file_load=320 bpf=321
  execveat=322 userfaultfd=323 membarrier=324 copy_file_range=326 statx=332
  rseq=334 pidfd_send_signal=424 io_uring_setup=425 io_uring_enter=426
  io_uring_register=427 open_tree=428 move_mount=429 fsopen=430 fsmount=432
  pidfd_open=434 clone3=435 close_range=436 pidfd_getfd=438 faccessat2=439
  process_madvise=440 epoll_pwait2=441 mount_setattr=442
  landlock_create_ruleset=444 landlock_add_rule=445
  landlock_restrict_self=446 futex_waitv=449
"""

_AARCH64 = """
  getcwd=17 eventfd2=19 epoll_create1=20 epoll_ctl=21 epoll_pwait=22 dup=23
  dup3=24 fcntl=25 ioctl=29 flock=32 umount2=39 mount=40 pivot_root=41
  statfs=43 fstatfs=44 ftruncate=46 fallocate=47 faccessat=48 chdir=49
  fchdir=50 chroot=51 openat=56 close=57 pipe2=59 getdents64=61 lseek=62
  read=63 write=64 readv=65 writev=66 pread64=67 pwrite64=68 preadv=69
  pwritev=70 sendfile=71 pselect6=72 ppoll=73 readlinkat=78 newfstatat=79
  fstat=80 fsync=82 fdatasync=83 acct=89 capset=91 exit=93 exit_group=94
  waitid=95 set_tid_address=96 unshare=97 futex=98 set_robust_list=99
  get_robust_list=100 nanosleep=101 getitimer=102 setitimer=103
  kexec_load=104 init_module=105 delete_module=106 clock_gettime=113
  clock_getres=114 clock_nanosleep=115 ptrace=117 sched_getaffinity=123
  sched_yield=124 restart_syscall=128 kill=129 tkill=130 tgkill=131
  sigaltstack=132 rt_sigsuspend=133 rt_sigaction=134 rt_sigprocmask=135
  rt_sigpending=136 rt_sigtimedwait=137 rt_sigqueueinfo=138 rt_sigreturn=139
  getpriority=141 reboot=142 setregid=143 setgid=144 setreuid=145 setuid=146
  setresuid=147 getresuid=148 setresgid=149 getresgid=150 setfsuid=151
  setfsgid=152 times=153 setpgid=154 getpgid=155 getsid=156 setsid=157
  getgroups=158 setgroups=159 uname=160 getrlimit=163 setrlimit=164
  getrusage=165 umask=166 prctl=167 getcpu=168 gettimeofday=169 getpid=172
  getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178
  sysinfo=179 socket=198 socketpair=199 bind=200 listen=201 accept=202
  connect=203 getsockname=204 getpeername=205 sendto=206 recvfrom=207
  setsockopt=208 getsockopt=209 shutdown=210 sendmsg=211 recvmsg=212 brk=214
  munmap=215 mremap=216 add_key=217 request_key=218 keyctl=219 clone=220
  execve=221 mmap=222 fadvise64=223 swapon=224 swapoff=225 mprotect=226
  msync=227 madvise=233 rt_tgsigqueueinfo=240 perf_event_open=241
  accept4=242 recvmmsg=243 wait4=260 prlimit64=261 open_by_handle_at=265
  setns=268 sendmmsg=269 process_vm_readv=270 process_vm_writev=271 kcmp=272
  finit_module=273 seccomp=277 getrandom=278 bpf=280 execveat=281
  userfaultfd=282 membarrier=283 copy_file_range=285 statx=291 rseq=293
  kexec_file_load=294 pidfd_send_signal=424 io_uring_setup=425
  io_uring_enter=426 io_uring_register=427 open_tree=428 move_mount=429
  fsopen=430 fsmount=432 pidfd_open=434 clone3=435 close_range=436
  pidfd_getfd=438 faccessat2=439 process_madvise=440 epoll_pwait2=441
  mount_setattr=442 landlock_create_ruleset=444 landlock_add_rule=445
  landlock_restrict_self=446 futex_waitv=449
"""

ARCHITECTURES = {
  'x86_64': Architecture(0xC000003E, _parse(_X86_64)),
  'aarch64': Architecture(0xC00000B7, _parse(_AARCH64)),
}


def table() -> Architecture:
  """This machine's architecture.

  Raises:
    OSError: on a machine that has no table here.
  """
  machine = os.uname().machine
  if machine not in ARCHITECTURES:
    raise OSError(
      f'the sandbox knows x86_64 and aarch64, this machine is {machine}'
    )
  return ARCHITECTURES[machine]
