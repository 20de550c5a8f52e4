"""Whether a program's output or result is the expected one.

In: what is expected and what came; out: bool. Rules: numbers are compared
with a tolerance only where a float is *expected*; integers always exactly; a
permutation or another set of tokens is never right. hendrycks/apps compares
sets of tokens and uses np.allclose on integers, which passes wrong programs.
What is *not* here: running programs; `same_value` runs inside the jailed
tester, `same_output` in the host on bytes.
"""

from collections.abc import Mapping
import math
import re
from typing import Any

MODES = ('tokens', 'exact', 'float')

_FLOAT = re.compile(
  rb'[+-]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d{1,4})?', re.ASCII
)
_NUMBER = re.compile(
  rb'[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?', re.ASCII
)
_PADDING = 1 << 20  # bytes; more would only fill the host's memory
_LONGEST = 400  # characters of a number that are worth reading
_REL = 1e-6


def same_output(
  expected: bytes, actual: bytes, compare: Mapping[str, Any]
) -> bool:
  """Whether the standard output is right.

  Args:
    expected: the test's output, UTF-8.
    actual: the program's.
    compare: {'mode': one of MODES, 'rtol', 'atol'}; missing: 'tokens', 1e-6.
      tokens: lines that hold something, split on blanks, as strings; exact:
      byte for byte; float: as tokens, but where the expected token is written
      as a float, within atol + rtol * |expected|.
  """
  mode = compare.get('mode', 'tokens')
  assert mode in MODES, mode
  if mode == 'exact':
    return expected == actual
  if len(actual) > 4 * len(expected) + _PADDING:
    return False
  wanted, found = _lines(expected), _lines(actual)
  if wanted == found:
    return True
  if mode == 'tokens' or [len(l) for l in wanted] != [len(l) for l in found]:
    return False
  rtol = compare.get('rtol', _REL)
  atol = compare.get('atol', _REL)
  return all(
    w == f or _close(w, f, rtol, atol)
    for want, find in zip(wanted, found, strict=True)
    for w, f in zip(want, find, strict=True)
  )


def _lines(data: bytes) -> list[list[bytes]]:
  return [tokens for line in data.split(b'\n') if (tokens := line.split())]


def _close(expected: bytes, actual: bytes, rtol: float, atol: float) -> bool:
  if len(actual) > _LONGEST or not _NUMBER.fullmatch(actual):
    return False
  if not _FLOAT.fullmatch(expected):
    return False
  wanted, found = float(expected), float(actual)
  if not math.isfinite(wanted):  # 1e999, which everything is close to
    return wanted == found
  return abs(wanted - found) <= atol + rtol * abs(wanted)


def same_value(expected: Any, actual: Any) -> bool:
  """Whether a call's result is right; both are plain values.

  A list equals a tuple of equal elements; a bool is not an int; a float is
  met by any number within 1e-6, relative and absolute; the rest by equality.
  """
  if isinstance(expected, list | tuple):
    return (
      isinstance(actual, list | tuple)
      and len(expected) == len(actual)
      and all(map(same_value, expected, actual))
    )
  if isinstance(expected, dict):
    return (
      isinstance(actual, dict)
      and expected.keys() == actual.keys()
      and all(same_value(v, actual[k]) for k, v in expected.items())
    )
  if isinstance(expected, bool) or isinstance(actual, bool):
    return type(expected) is type(actual) and expected == actual
  if isinstance(expected, float):
    if not isinstance(actual, int | float):
      return False
    if math.isnan(expected):
      return math.isnan(actual)
    try:
      return math.isclose(expected, actual, rel_tol=_REL, abs_tol=_REL)
    except OverflowError:  # an int past the floats
      return False
  return bool(expected == actual)
