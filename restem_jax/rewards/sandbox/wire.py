"""Plain values between a program and its tests, over a socket.

In: Python values on one side; out: equal plain values on the other, as JSON
with tags. `Peer` is one end: it asks, and answers while it waits (a test may
hand the program a function). Nothing is ever unpickled or evaluated; a frame
that is too long, nested too deep or out of turn ends the talk with `Lost`.

Crossing by value: None, bool, int, float, complex, str, bytes, list, tuple,
set, dict, range, deque, Fraction, Decimal, builtin types, numpy's scalars and
arrays (as numbers and lists). A subclass crosses as its builtin base, by the
base's own methods: an `int` with a hostile `__eq__` arrives as an int. All
else stays where it is and crosses as a reference. Trap: arguments are copies,
so a program that changes its argument in place is not seen to do so.
"""

import builtins
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
import json
import os
from typing import Any

MAX_FRAME = 16 << 20  # bytes
_KEYS = type({}.keys())
_SMALL = 1 << 53

# Base class -> a plain value of it, by the base's methods only.
_FLATTEN: dict[type, Callable[[Any], Any]] = {
  int: int.__pos__,
  float: float.__pos__,
  str: str.__str__,
  list: lambda v: list(list.__iter__(v)),
  tuple: lambda v: tuple(tuple.__iter__(v)),
  dict: lambda v: {k: dict.__getitem__(v, k) for k in dict.__iter__(v)},
  set: lambda v: set(set.__iter__(v)),
  frozenset: lambda v: frozenset(frozenset.__iter__(v)),
  bytes: lambda v: bytes(list(bytes.__iter__(v))),
  bytearray: lambda v: bytearray(list(bytearray.__iter__(v))),
  complex: complex.__pos__,
  deque: lambda v: deque(deque.__iter__(v)),
}


class Lost(BaseException):
  """The other side is gone or talks nonsense.

  A BaseException, so that no `except Exception` of a test swallows it.
  """


def write_frame(fd: int, data: bytes) -> None:
  """Writes one length-prefixed frame; Lost if the other side is gone."""
  view = memoryview(len(data).to_bytes(4, 'little') + data)
  try:
    while view:
      view = view[os.write(fd, view) :]
  except OSError as e:
    raise Lost(f'write: {e}') from None


def read_frame(fd: int, limit: int = MAX_FRAME) -> bytes:
  """Reads one frame; Lost at its end or if it is longer than `limit`."""
  length = int.from_bytes(_read(fd, 4), 'little')
  if length > limit:
    raise Lost(f'a frame of {length} bytes')
  return _read(fd, length)


def _read(fd: int, length: int) -> bytes:
  parts = []
  while length:
    try:
      part = os.read(fd, min(length, 1 << 20))
    except OSError as e:
      raise Lost(f'read: {e}') from None
    if not part:
      raise Lost('end of stream')
    parts.append(part)
    length -= len(part)
  return b''.join(parts)


def pack(value: Any, refer: Callable[[Any], Any]) -> Any:
  """A JSON value; `refer` gives the tagged reference of what has no form."""
  kind = type(value)
  if kind in (str, bytes, bytearray) and len(value) > MAX_FRAME:
    raise OverflowError(f'a value of {len(value)} bytes')
  if value is None or kind in (bool, float, str):
    return value
  if kind is int:
    return value if -_SMALL < value < _SMALL else {'i': hex(value)}
  if kind is list:
    return [pack(v, refer) for v in value]
  if kind is tuple:
    return {'t': [pack(v, refer) for v in value]}
  if kind is dict:
    return {'d': [[pack(k, refer), pack(v, refer)] for k, v in value.items()]}
  if kind is set or kind is _KEYS:
    return {'s': [pack(v, refer) for v in value]}
  if kind is frozenset:
    return {'z': [pack(v, refer) for v in value]}
  if kind is deque:
    return {'q': [pack(v, refer) for v in value]}
  if kind is bytes or kind is bytearray:
    return {'b' if kind is bytes else 'a': value.hex()}
  if kind is complex:
    return {'c': [value.real, value.imag]}
  if kind is range:
    return {'r': [hex(n) for n in (value.start, value.stop, value.step)]}
  if kind is Fraction:
    return {'f': [hex(value.numerator), hex(value.denominator)]}
  if kind is Decimal:
    return {'n': str(value)}
  for base, flatten in _FLATTEN.items():
    if base in kind.__mro__:
      return pack(flatten(value), refer)
  if kind.__module__ == 'numpy' and hasattr(kind, 'tolist'):
    return pack(value.tolist(), refer)
  if kind is type and _is_builtin(value):
    return {'T': value.__name__}
  return refer(value)


def is_builtin_function(value: Any) -> bool:
  """Whether it is `len` and the like.

  The tests send one by its name. The program must not: `exec`, called by a test
  with a text of the program's, would run in the tests' process.
  """
  return type(value) is type(len) and _is_builtin(value)


def _is_builtin(value: Any) -> bool:
  name = value.__name__
  return isinstance(name, str) and vars(builtins).get(name) is value


def unpack(data: Any, resolve: Callable[[str, Any], Any]) -> Any:
  """The value of a JSON value; `resolve(tag, id)` finds references.

  Raises:
    ValueError, TypeError, KeyError: if `data` is not what `pack` makes.
  """
  if type(data) is list:
    return [unpack(v, resolve) for v in data]
  if type(data) is not dict:
    return data
  ((tag, body),) = data.items()
  if tag == 'd':
    return {unpack(k, resolve): unpack(v, resolve) for k, v in body}
  if tag in _PLAIN:
    return _PLAIN[tag](body)
  if tag in _GROUPS:
    return _GROUPS[tag](unpack(v, resolve) for v in body)
  return resolve(tag, body)


_GROUPS: dict[str, Callable[[Any], Any]] = {
  't': tuple,
  's': set,
  'z': frozenset,
  'q': deque,
}
_PLAIN: dict[str, Callable[[Any], Any]] = {
  'i': lambda b: int(b, 16),
  'b': bytes.fromhex,
  'a': bytearray.fromhex,
  'c': lambda b: complex(*b),
  'r': lambda b: range(*(int(n, 16) for n in b)),
  'f': lambda b: Fraction(*(int(n, 16) for n in b)),
  'n': Decimal,
}


class Peer:
  """One end of the talk.

  `answer(op, args)` serves the other side's questions; `refer` and `resolve`
  translate what can't cross by value.
  """

  def __init__(
    self,
    fd: int,
    answer: Callable[[str, list[Any]], Any],
    refer: Callable[[Any], Any],
    resolve: Callable[[str, Any], Any],
  ):
    self._fd = fd
    self._answer = answer
    self._refer = refer
    self._resolve = resolve

  def ask(self, op: str, *args: Any) -> Any:
    """The other side's answer; raises what it raised, as a builtin type."""
    nonce = os.urandom(8).hex()  # an answer sent before its question is none
    packed = [pack(a, self._refer) for a in args]
    self._send({'q': nonce, 'o': op, 'a': packed})
    while True:
      frame = self._receive()
      if 'q' in frame:
        self._serve(frame)
      elif frame.get('r') != nonce:
        raise Lost('an answer out of turn')
      elif 'e' in frame:
        raise _exception(frame['e'])
      else:
        return self._value(frame.get('v'))

  def serve_forever(self) -> None:
    """Answers until the other side is gone (`Lost`)."""
    while True:
      self.serve_one()

  def serve_one(self) -> None:
    """Answers the other side's next question."""
    self._serve(self._receive())

  def _serve(self, frame: dict[str, Any]) -> None:
    nonce, op, args = frame.get('q'), frame.get('o'), frame.get('a')
    if not isinstance(op, str) or not isinstance(args, list):
      raise Lost('a question without op or arguments')
    values = [self._value(a) for a in args]
    try:
      reply = {'r': nonce, 'v': pack(self._answer(op, values), self._refer)}
      data = json.dumps(reply).encode()
      if len(data) > MAX_FRAME:
        raise OverflowError(f'an answer of {len(data)} bytes')
    except Lost:
      raise
    except BaseException as e:
      data = json.dumps({'r': nonce, 'e': _describe(e)}).encode()
    write_frame(self._fd, data)

  def _value(self, data: Any) -> Any:
    try:
      return unpack(data, self._resolve)
    except Exception as e:
      raise Lost(f'not a value: {type(e).__name__}') from None

  def _send(self, frame: dict[str, Any]) -> None:
    write_frame(self._fd, json.dumps(frame).encode())

  def _receive(self) -> dict[str, Any]:
    try:
      frame = json.loads(read_frame(self._fd))
    except (ValueError, RecursionError):
      raise Lost('not JSON') from None
    if not isinstance(frame, dict):
      raise Lost('not a frame')
    return frame


def _describe(error: BaseException) -> list[str]:
  """Nearest builtin type and text; the text may be hostile code's."""
  name = next(
    (
      c.__name__
      for c in type(error).__mro__
      if vars(builtins).get(c.__name__) is c
    ),
    'Exception',
  )
  try:
    text = str.__str__(str(error))[:1000]
  except BaseException:
    text = ''
  return [name, text]


def _exception(described: Any) -> BaseException:
  """The builtin exception named, marked as the other side's."""
  try:
    name, text = described
    kind = vars(builtins).get(name)
  except (ValueError, TypeError):
    raise Lost('not an exception') from None
  if not isinstance(kind, type) or not issubclass(kind, BaseException):
    kind = Exception
  error: BaseException = Exception(text)
  for base in kind.__mro__:  # UnicodeDecodeError takes five arguments
    try:
      error = base(text)
      break
    except TypeError:
      continue
  error.__dict__['remote'] = True
  return error
