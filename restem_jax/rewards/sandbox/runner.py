"""Runs one untrusted program: the only module that executes model text.

In: the program's source, in a confined child of the fork server; out: for
stdio an exit status (the output went to descriptor 1), for tests the answers
to "call f(args)" over a socket. It knows no test, no expected value and no
verdict. Everything here is in the hands of the program once it runs.
"""

import _thread
import atexit
import builtins
import functools
import io
import os
import socket
import sys
import types
from typing import Any, NoReturn

from restem_jax.rewards.sandbox import wire

FILENAME = 'solution.py'
OUT_OF_MEMORY = 57  # exit status
_FAILED = 1
REHEARSALS = 32  # CPython specialises after 8 runs
_PRINTS = b'a, b = map(int, input().split())\nprint(a + b)'
_ANSWERS = b'def add(a, b):\n  return a + b'
_QUESTIONS = (
  b'{"q": "0", "o": "names", "a": [["add"]]}',
  b'{"q": "1", "o": "call", "a": [{"h": 0}, [1, 2], {"d": []}]}',
)


def prepare() -> None:
  """What all programs have alike: done once, before the first fork.

  `random` and `threading` are imported without the hooks that they run in every
  child. The first seeds anew, but forks are to draw alike, so that the verdict
  on a program is reproducible. The second forgets the server's other threads,
  of which there are none (`zygote.main` sees to it), and touches 95 pages.
  """
  hooked = {'random', 'threading'} & set(sys.modules)
  assert not hooked, f'{hooked}: their hooks would run in every child'
  register, os.register_at_fork = os.register_at_fork, lambda **_: None
  try:
    import random
    import threading  # noqa: F401
  finally:
    os.register_at_fork = register
  random.seed(0)
  _own_builtins()


def rehearse() -> None:
  """Runs programs of our own, so that every child finds the interpreter warm.

  Specialised instructions, caches of types and the like are written once,
  here, and not in each child, which would copy the pages first.
  """
  streams, names = (sys.stdin, sys.stdout), ('__main__', 'builtins')
  modules, arguments = [sys.modules[n] for n in names], sys.argv
  ours, theirs = socket.socketpair()
  with ours, theirs:
    for _ in range(REHEARSALS):
      sys.stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(b'1 2\n')))
      sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.BytesIO()))
      statuses = [_execute(_PRINTS, '__main__')]
      sys.stdout.flush()
      sys.modules['__main__'].__dict__.clear()
      statuses.append(_execute(_ANSWERS, 'solution'))
      assert statuses == [0, 0], statuses
      program = _Program(sys.modules.pop('solution'), theirs.fileno())
      for question in _QUESTIONS:
        wire.write_frame(ours.fileno(), question)
        program.peer.serve_one()
        wire.read_frame(ours.fileno())
  sys.stdin, sys.stdout = streams
  sys.modules.update(zip(names, modules, strict=True))
  sys.argv = arguments


def run_stdio(source: bytes) -> NoReturn:
  """Runs the source as `python solution.py` would, then ends the process."""
  status = _execute(source, '__main__')
  try:
    # What the interpreter does at its end, but for freeing all of itself.
    if _thread._count():  # else there is nothing to wait for, but 30 pages
      import threading  # by now without its hook

      threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _flush()
    # A file that the program opened on descriptor 1 is flushed by its end.
    sys.modules['__main__'].__dict__.clear()
    _flush()
  except BaseException:
    status = status or _FAILED
  os._exit(status)


def _flush() -> None:
  for stream in (sys.stdout, sys.__stdout__):
    if stream is not None and not getattr(stream, 'closed', False):
      stream.flush()


def run_calls(source: bytes, fd: int) -> NoReturn:
  """Runs the source as a module, then answers calls into it."""
  status = _execute(source, 'solution')
  if status:
    os._exit(status)
  try:
    _Program(sys.modules['solution'], fd).peer.serve_forever()
  except BaseException:
    os._exit(_FAILED)
  os._exit(0)


def _execute(source: bytes, name: str) -> int:
  """Runs the source as the module `name`; the exit status it asks for."""
  module = types.ModuleType(name)
  module.__dict__['__builtins__'] = sys.modules['builtins'] = _own_builtins()
  module.__dict__['__file__'] = FILENAME
  sys.modules[name] = module
  sys.argv = [FILENAME]
  sys.orig_argv = [sys.executable, FILENAME]
  try:
    code = compile(source, FILENAME, 'exec', dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102
  except SystemExit as e:
    # A module that exits has not defined what is going to be called.
    if name == '__main__' and (e.code is None or type(e.code) is int):
      return (e.code or 0) & 0xFF
    return _FAILED
  except MemoryError:
    return OUT_OF_MEMORY
  except BaseException:
    return _FAILED
  return 0


@functools.cache
def _own_builtins() -> types.ModuleType:
  """A copy of builtins for the program, so that it patches only its own.

  No matter of trust: a program that sets `builtins.len` should get a wrong
  answer, not break the code that sends it. Made in the server (`prepare`): it
  touches, and in a child would copy, 90 pages.
  """
  copy = types.ModuleType('builtins')
  copy.__dict__.update(builtins.__dict__)
  return copy


class _Reference:
  """A function or iterator that lives with the tests."""

  def __init__(self, program: '_Program', key: Any):
    self._program = program
    self._key = key

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self._program.peer.ask('call', self, list(args), kwargs)

  def __iter__(self) -> '_Reference':
    return self

  def __next__(self) -> Any:
    return self._program.peer.ask('next', self)


class _Program:
  """Answers questions about a module; keeps what it has handed out."""

  def __init__(self, module: types.ModuleType, fd: int):
    self.peer = wire.Peer(fd, self._answer, self._refer, self._resolve)
    self._module = module
    self._objects: list[Any] = []
    self._keys: dict[int, int] = {}  # id(object) -> index in _objects

  def _refer(self, value: Any) -> dict[str, Any]:
    if type(value) is _Reference:
      return {'x': value._key}
    key = self._keys.get(id(value))
    if key is None:
      key = self._keys[id(value)] = len(self._objects)
      self._objects.append(value)
    return {'h': key}

  def _resolve(self, tag: str, key: Any) -> Any:
    if tag == 'h':
      return self._objects[key]
    if tag == 'T':
      return getattr(builtins, key)
    return _Reference(self, key)

  def _answer(self, op: str, args: list[Any]) -> Any:
    if op == 'names':
      return {n: self._module.__dict__[n] for n in args[0] if self._has(n)}
    if op == 'entry':
      return self._entry(args[0])
    return _OPERATIONS[op](*args)

  def _has(self, name: str) -> bool:
    return name in self._module.__dict__

  def _entry(self, path: str) -> Any:
    """`f`, or `Solution.f` of a new Solution()."""
    name, _, method = path.partition('.')
    value = self._module.__dict__[name]
    return getattr(value(), method) if method else value


_OPERATIONS = {
  'call': lambda f, args, kwargs: f(*args, **kwargs),
  'getattr': getattr,
  'setattr': setattr,
  'iter': iter,
  'next': next,
  'len': len,
  'bool': bool,
  'str': str,
  'getitem': lambda v, key: v[key],
  'setitem': lambda v, key, new: v.__setitem__(key, new),
  'isinstance': isinstance,
}
