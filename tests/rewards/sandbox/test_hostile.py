"""Hostile programs beyond the corpus: one run per tier, a verdict for each."""

import os
import textwrap

from suites import ADD, CALL, CHECK

from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits, Suite

SAFE = Suite(kind='stdio', tests=[{'stdin': 'x', 'stdout': 'SAFE\n'}])
FLOAT = Suite(
  kind='call', entry_point='f', tests=[{'args': [1], 'expected': 0.5}]
)
INT = Suite(kind='call', entry_point='f', tests=[{'args': [1], 'expected': 1}])
ZERO = Suite(
  kind='call', entry_point='f', tests=[{'args': [1], 'expected': 0.0}]
)
LOOP = Suite(
  kind='assert', tests=['assert all(map(lambda x: f(x) == x, [1, 2]))']
)
WITHIN = Suite(kind='assert', tests=['assert 3 in f(1)'])
MESSAGE = Suite(kind='assert', tests=['assert f(1) == 1, f(1)'])
FALSE = ('fail', 'error')
DEAD = ('fail', 'error', 'violation', 'timeout', 'oom')


def safe(statement, header='import ctypes, os'):
  """Prints LEAK if the statement works, SAFE if it is refused."""
  return (
    f'{header}\nlibc = ctypes.CDLL(None, use_errno=True)\n'
    f'def act():\n{textwrap.indent(statement, "  ")}\n  return True\n'
    'try: print("LEAK" if act() else "SAFE")\n'
    'except (OSError, ValueError, AttributeError): print("SAFE")\n'
  )


def call(number, *args):
  return safe(f'return libc.syscall({number}, {", ".join(args)}) >= 0')


REFUSED = ('pass', 'violation')  # a probe: refused or killed
PROGRAMS = {
  # Who says how it ended: the exit status of a child that never ran, a signal
  # without a name.
  'exit 58': (SAFE, 'import os\nos._exit(58)', ('error',)),
  'exit 57': (SAFE, 'raise SystemExit(57)', ('oom', 'error')),
  'signal 40': (SAFE, 'import os\nos.kill(os.getpid(), 40)', ('error',)),
  'signal 64': (SAFE, 'import os\nos.kill(os.getpid(), 64)', ('error',)),
  'exit 58 in a call': (
    ADD,
    'import os\ndef add(a, b): os._exit(58)',
    ('error',),
  ),
  'exit 256': (SAFE, 'print("SAFE")\nraise SystemExit(256)', ('pass',)),
  # What the tests' own code makes of what comes back.
  'StopIteration': (LOOP, 'def f(x): raise StopIteration', FALSE),
  'contains all': (
    WITHIN,
    'class A:\n  def __contains__(s, o): return True\ndef f(x): return A()',
    FALSE,
  ),
  'contains what is asked': (
    WITHIN,
    'seen = []\nclass A:\n  def __contains__(s, o): seen.append(o)\n'
    '  def __iter__(s): return iter(seen)\nA = A()\ndef f(x): return A',
    FALSE,
  ),
  'contains at last': (WITHIN, 'def f(x):\n  yield 1\n  yield 3', ('pass',)),
  'redefines the prompt': (
    CHECK,
    'def root(): return 9\ndef line(x): return 0',
    FALSE,
  ),
  'solves the prompt': (CHECK, 'def root(): return 4', ('pass',)),
  'redefines check': (
    CHECK,
    'def root(): return 9\ndef check(f): f()',
    FALSE,
  ),
  'dies in the message': (
    MESSAGE,
    'import os\nclass A:\n  def __str__(s): os._exit(0)\ndef f(x): return A()',
    FALSE,
  ),
  'raises in the message': (
    MESSAGE,
    'class A:\n  def __str__(s): raise StopIteration\ndef f(x): return A()',
    FALSE,
  ),
  'class of int': (
    ADD,
    'class A:\n  __class__ = int\n  def __eq__(s, o): return True\n'
    '  def __index__(s): return 3\ndef add(a, b): return A()',
    FALSE,
  ),
  'str subclass': (
    ADD,
    'class S(str):\n  __eq__ = lambda s, o: True\n  __hash__ = None\n'
    'def add(a, b): return S("3")',
    FALSE,
  ),
  'list of equals': (
    CALL,
    'class I(int):\n  __eq__ = lambda s, o: True\n  __hash__ = None\n'
    'class L(list):\n  __eq__ = lambda s, o: True\n  __len__ = lambda s: 2\n'
    '  __iter__ = lambda s: iter([1, 2])\ndef f(x): return L([I(7), I(7)])',
    FALSE,
  ),
  'dict at large': (
    CALL,
    'from collections import defaultdict\ndef f(x): return defaultdict(int)',
    FALSE,
  ),
  'metaclass': (
    ADD,
    'class M(type):\n  __eq__ = lambda s, o: True\n  __hash__ = type.__hash__\n'
    'class A(metaclass=M): pass\ndef add(a, b): return A',
    FALSE,
  ),
  'nan': (FLOAT, 'def f(x): return float("nan")', FALSE),
  'infinity': (FLOAT, 'def f(x): return float("inf")', FALSE),
  'decimal nan': (
    FLOAT,
    'from decimal import Decimal\ndef f(x): return Decimal("sNaN")',
    FALSE,
  ),
  'decimal at large': (
    INT,
    'from decimal import Decimal\ndef f(x): return Decimal("1e999999999")',
    FALSE,
  ),
  'fraction by zero': (
    FLOAT,
    'from fractions import Fraction\nf = lambda x: F\nF = Fraction(1, 2)\n'
    'F._denominator = 0',
    FALSE,
  ),
  'minus zero': (ZERO, 'def f(x): return -0.0', ('pass',)),
  'True for 1': (INT, 'def f(x): return True', FALSE),
  '1.0 for 1': (INT, 'def f(x): return 1.0', ('pass',)),
  'text for 1': (INT, 'def f(x): return "1"', FALSE),
  'tuple for list': (CALL, 'def f(x): return tuple(sorted(x))', ('pass',)),
  'set for list': (CALL, 'def f(x): return set(x)', FALSE),
  'keys for list': (CALL, 'def f(x): return {1: 0, 2: 0}.keys()', FALSE),
  'bytes for list': (CALL, 'def f(x): return bytes([1, 2])', FALSE),
  'generator for list': (CALL, 'def f(x): yield from sorted(x)', FALSE),
  'argument changed': (CALL, 'def f(x): x.sort()', FALSE),
  'argument changed and returned': (
    CALL,
    'def f(x):\n  x.sort()\n  return x',
    ('pass',),
  ),
  'cyclic': (CALL, 'def f(x):\n  x.append(x)\n  return x', FALSE),
  'cyclic, no limit': (
    CALL,
    'import sys\nsys.setrecursionlimit(10**9)\n'
    'def f(x):\n  x.append(x)\n  return x',
    DEAD,
  ),
  'deep': (
    CALL,
    'import sys\nsys.setrecursionlimit(10**6)\ndef f(x):\n'
    '  for _ in range(20000): x = [x]\n  return x',
    DEAD,
  ),
  'giant integer': (INT, 'def f(x): return 1 << 60_000_000', FALSE),
  'surrogate': (INT, 'def f(x): return "\\ud800"', FALSE),
  'surrogate raised': (INT, 'def f(x): raise ValueError("\\ud800")', FALSE),
  'surrogate printed': (SAFE, 'print("\\ud800")', FALSE),
  'NUL in the source': (SAFE, 'print("SAFE")\x00', FALSE),
  'NUL after': (SAFE, 'print("SAFE\\0")', FALSE),
  'surrogate in the source': (SAFE, 'print("SAFE \ud800")', FALSE),
  'exception group': (
    INT,
    'def f(x): raise BaseExceptionGroup("x", [SystemExit(0)])',
    FALSE,
  ),
  'GeneratorExit': (LOOP, 'def f(x): raise GeneratorExit', FALSE),
  # The channel to the tests.
  'closes the channel': (ADD, 'import os\nos.close(3)\nadd = max', FALSE),
  'shuts the channel': (
    ADD,
    'import socket\ns = socket.socket(fileno=3)\ns.shutdown(2)\nadd = max',
    FALSE,
  ),
  'half a frame': (
    ADD,
    'import os, time\ndef add(a, b):\n  os.write(3, b"\\xff")\n  os._exit(0)',
    FALSE,
  ),
  'a frame too long': (
    ADD,
    'import os\ndef add(a, b):\n  os.write(3, b"\\xff" * 4096)\n  return 3',
    FALSE,
  ),
  'unknown references': (
    ADD,
    'from restem_jax.rewards.sandbox import wire\n'
    'wire.pack = lambda v, refer: {"x": 0}\ndef add(a, b): return 0',
    FALSE,
  ),
  'a builtin as the program': (CALL, 'f = sorted', ('pass',)),
  'another builtin': (ADD, 'add = max', FALSE),
  'a type as the program': (CHECK, 'root = int', FALSE),
  'exec of an answer': (
    Suite(kind='assert', tests=['assert f(g(1)) == 2']),
    'f = exec\ng = lambda x: "import sys; sys._getframe(1).f_globals.update('
    'f=lambda x: 2)"',
    FALSE,
  ),
  'thread answers': (
    ADD,
    'import json, os, threading\ndef spam():\n  while True:\n'
    '    m = json.dumps({"r": None, "v": 3}).encode()\n'
    '    os.write(3, len(m).to_bytes(4, "little") + m)\n'
    'threading.Thread(target=spam, daemon=True).start()\n'
    'def add(a, b): return 3',
    FALSE,
  ),
  'traces the runner': (
    ADD,
    'import sys\ndef trace(frame, event, arg):\n'
    '  for k in frame.f_locals: frame.f_locals[k] = 3\n  return trace\n'
    'sys.settrace(trace)\nsys.setprofile(trace)\ndef add(a, b): return 0',
    FALSE,
  ),
  'patches json': (
    ADD,
    'import json\njson.dumps = lambda *a, **k: \'{"v": 3}\'\n'
    'json.loads = lambda *a: {"q": 0, "o": "names", "a": [[]]}\n'
    'def add(a, b): return 0',
    DEAD,
  ),
  # Streams and ends.
  'stdout replaced': (
    SAFE,
    'import io, sys\nsys.stdout = io.StringIO()\nprint("SAFE")',
    FALSE,
  ),
  'stdout restored': (
    SAFE,
    'import io, sys\nsys.stdout = io.StringIO()\nsys.stdout = sys.__stdout__\n'
    'print("SAFE")',
    ('pass',),
  ),
  'stdout closed': (SAFE, 'import os\nos.close(1)\nprint("SAFE")', FALSE),
  'stderr only': (SAFE, 'import sys\nprint("SAFE", file=sys.stderr)', FALSE),
  'stdin closed': (
    SAFE,
    'import sys\nsys.stdin.close()\ntry: input()\n'
    'except ValueError: print("SAFE")',
    ('pass',),
  ),
  'input replaced': (
    SAFE,
    'import builtins\nbuiltins.input = lambda: "SAFE"\nprint(input())',
    ('pass',),
  ),
  'in pieces': (
    SAFE,
    'import os\nfor c in b"SAFE\\n": os.write(1, bytes([c]))\nos._exit(0)',
    ('pass',),
  ),
  'rewritten': (
    SAFE,
    'import os\nos.write(1, b"LEAK")\nos.pwrite(1, b"SAFE\\n", 0)',
    ('pass',),
  ),
  'sparse': (
    SAFE,
    'import os\nos.write(1, b"SAFE\\n")\nos.ftruncate(1, 8 << 20)',
    FALSE,
  ),
  'thread left behind': (
    SAFE,
    'import threading, time\nprint("SAFE")\nthreading.Thread('
    'target=time.sleep, args=(60,), daemon=True).start()',
    ('pass',),
  ),
  'time patched': (
    SAFE,
    'import time\ntime.time = time.monotonic = lambda: 0\nprint("SAFE")',
    ('pass',),
  ),
  # The kernel.
  'memfd': (SAFE, safe('os.memfd_create("x")'), REFUSED),
  'shmget': (SAFE, call(29, '0', '4096', '0o1666'), REFUSED),
  'mq_open': (SAFE, call(240, 'b"x"', '0o102', '0o666', 'None'), REFUSED),
  'keyctl': (SAFE, call(250, '0', '-3', '1'), REFUSED),
  'timer to another': (
    SAFE,
    call(222, '1', 'None', 'ctypes.byref(ctypes.c_int())'),
    REFUSED,
  ),
  'inotify': (SAFE, call(294, '0'), REFUSED),
  'x32': (SAFE, call(0x40000000 + 39), ('violation',)),
  'vsock': (SAFE, safe('import socket; socket.socket(40, 1)'), REFUSED),
  'vmsplice': (SAFE, call(278, '1', 'None', '0', '0'), REFUSED),
  'personality': (SAFE, call(135, '0x0040000'), REFUSED),
  'dumpable again': (SAFE, safe('return libc.prctl(4, 1) == 0'), REFUSED),
  'outlive the server': (SAFE, safe('return libc.prctl(1, 0) == 0'), REFUSED),
  'traced by all': (
    SAFE,
    safe('return libc.prctl(0x59616d61, -1) == 0'),
    REFUSED,
  ),
  'link': (SAFE, safe('os.link("/usr/lib/os-release", "/x")'), REFUSED),
  'proc of pid 1': (SAFE, safe('open("/proc/1/environ").read()'), REFUSED),
  'tty': (SAFE, safe('open("/dev/tty", "w")'), REFUSED),
  'core': (
    SAFE,
    safe(
      'resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))',
      'import ctypes, os, resource',
    ),
    REFUSED,
  ),
  'aborts': (SAFE, 'import os\nprint("SAFE")\nos.abort()', ('error',)),
  'daemon': (SAFE, 'import os\nprint("SAFE")\nos.setsid()', FALSE),
}


def test_hostile_programs(pool, wrong_verdicts):
  """x86-64 numbers; elsewhere they are other calls, refused as well or not."""
  names = [
    n
    for n in PROGRAMS
    if os.uname().machine == 'x86_64' or 'syscall(' not in PROGRAMS[n][1]
  ]

  assert not wrong_verdicts(pool, {name: PROGRAMS[name] for name in names})


def test_descriptors_above_a_childs(secret):
  """A host with many open files: the control socket's number is high.

  A child that inherits it may answer in the server's stead, and forge how a
  program ended.
  """
  kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(300)]
  try:
    pool = SandboxPool(slots=1)
  finally:
    for fd in kept:
      os.close(fd)
  program = (
    'import os\nfor fd in range(3, 5000):\n  try:\n    os.write(fd, '
    'b\'{"killed": "", "status": 0, "cpu_s": 0, "ready": true}\')\n'
    '    os.write(1, b"LEAK")\n  except OSError: pass\nprint("SAFE")'
  )
  try:
    outcome = pool.judge(program, SAFE, Limits(wall_s=5.0))
    assert outcome.status == 'pass', outcome
  finally:
    pool.close()
