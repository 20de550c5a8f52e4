r"""Whether two scalar expressions are equal, by math-verify and by numbers.

In: canonical leaves (`answers`) that passed the screen; out: True or False.
Runs only in worker processes, which may be killed at any time: nothing here
bounds its own time. What is *not* here: structure and exact rationals.

math-verify reads LaTeX well, but its verdicts round: to it 10^{-20} equals
10^{-21}, and 1.0000001 equals 1.0000004. So decimals are rewritten as
fractions first, and both sides are evaluated to as many digits as the
numbers in them can tell apart, at several points when there are variables:

  they differ       -> not equal, whatever math-verify would say
  they agree        -> equal (beyond MAX_PRECISION only if proved)
  no values to have -> math-verify's verdict, if it has a proof
"""

from collections.abc import Mapping, Sequence
import fractions
import functools
import importlib
import math
import pkgutil
import random
import re
import string
from typing import Any

from latex2sympy2_extended import latex2sympy2
from math_verify import verify
import sympy

from restem_jax.rewards import equivalence, rational

MAX_PRECISION = 4000  # decimal digits
_GUARD = 25  # digits beyond what the numbers' sizes call for
_MAX_BITS = 1 << 20  # of exact rationals; a worker may take its time
_NUM_POINTS = 3

_DECIMAL = re.compile(r'(?<![0-9])([0-9]*)\.([0-9]+)(?![0-9])')
# \log_{2}3\cdot x is a product, though the parser reads on to its end.
_ARGUMENT = re.compile(
  r'(\\(?:log(?:_\{[^{}]*\})?|ln|sin|cos|tan|cot|sec|csc)(?:\^\{[0-9]+\})?)'
  r'([0-9]+|[A-Za-z]|\\(?:pi|theta|alpha|beta)(?![A-Za-z]))(?=\\cdot|\\div)'
)
_COMMAND = re.compile(r'(\\[A-Za-z]+)')
_RELATIONAL = (
  sympy.Eq, sympy.Ne, sympy.StrictLessThan, sympy.LessThan,
  sympy.StrictGreaterThan, sympy.GreaterThan,
)  # fmt: skip
_NO_VALUE = (sympy.nan, sympy.zoo, sympy.MatrixExpr)
_PIECEWISE = (
  sympy.Abs, sympy.floor, sympy.ceiling, sympy.Max, sympy.Min, sympy.sign,
  sympy.Mod, sympy.Piecewise,
)  # fmt: skip
_REVERSED = {
  sympy.StrictGreaterThan: sympy.StrictLessThan,
  sympy.GreaterThan: sympy.LessThan,
}
_PACKAGES = (
  'calculus', 'concrete', 'functions', 'integrals', 'matrices', 'ntheory',
  'polys', 'series', 'sets', 'simplify', 'solvers', 'codegen',
)  # fmt: skip
_UNUSED = re.compile(r'tests|benchmarks')
_WARM_UP = (
  (r'\sqrt{8}', r'2\sqrt{2}'),
  (r'\frac{1}{\sqrt{2}}', r'\frac{\sqrt{2}}{2}'),
  (r'(x+1)(x-1)', r'x^{2}-1'),
  (r'\sin^{2}x+\cos^{2}x', '1'),
  (r'\log_{10}x', r'\frac{\ln x}{\ln 10}'),
  (r'\frac{\pi}{4}', r'\arctan 1'),
  (r'e^{i\pi}', '-1'),
  (r'y-1=2x', r'y=2x+1'),
  (r'x+y<3', r'3>x+y'),
  (r'\binom{n}{2}', r'\frac{n(n-1)}{2}'),
  (r'2\pi r', r'\pi r^{2}'),
  (r'f(x)', r'g(x)'),
  (r'\lfloor x\rfloor', r'|x|'),
)


def same(a: str, b: str) -> bool:
  """Whether two leaves are the same scalar or the same relation."""
  decided = _exact(a, b)
  if decided is not None:
    return decided
  a, b = _letters_apart(a, b)
  x, y = _parse(a), _parse(b)
  if x is None or y is None:
    return False
  if isinstance(x, _RELATIONAL) or isinstance(y, _RELATIONAL):
    return _same_relation(x, y)
  if not isinstance(x, sympy.Expr) or not isinstance(y, sympy.Expr):
    return False
  if x.has(*_NO_VALUE) or y.has(*_NO_VALUE):
    return False
  if x == y:
    return True
  agree = _agree(x, y)
  if agree and (_piecewise(x) or _piecewise(y)):
    agree = None
  return _proved(x, y) if agree is None else agree


def readable(text: str) -> bool:
  """Whether a leaf has a meaning that can be compared."""
  if equivalence.exact(text, '0') is not None:
    return True
  x = _parse(text)
  if x is None or x.has(*_NO_VALUE):
    return False
  if isinstance(x, (*_RELATIONAL, sympy.And)):
    return True
  return isinstance(x, sympy.Expr)


def warm_up() -> None:
  """Fills the parser's and sympy's caches, and imports what they put off.

  A worker opens no file, so what it may need must be in memory before.
  """
  for package in _PACKAGES:
    module = importlib.import_module(f'sympy.{package}')
    for info in pkgutil.walk_packages(module.__path__, module.__name__ + '.'):
      if not _UNUSED.search(info.name):
        importlib.import_module(info.name)
  for pair in _WARM_UP:
    same(*pair)
    x, y = map(_parse, pair)
    if isinstance(x, sympy.Expr) and isinstance(y, sympy.Expr):
      _proved(x, y)


def _exact(a: str, b: str) -> bool | None:
  decided = equivalence.exact(a, b)
  if decided is not None:
    return decided
  try:
    u = rational.evaluate(a, max_bits=_MAX_BITS)
    v = rational.evaluate(b, max_bits=_MAX_BITS)
  except rational.TooLarge:
    return None
  if isinstance(u, rational.Fraction) and isinstance(v, rational.Fraction):
    return u == v
  return None


# Reading.


class _Reader(latex2sympy2._Latex2Sympy):
  """math-verify's parser, which would give digits to sympify and so to eval."""

  def parse_number(self, text: str) -> Any:
    return sympy.Rational(fractions.Fraction(text))


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> Any:
  """A sympy object, or None for what math-verify's parser cannot read."""
  text = text.removesuffix('%')
  if '%' in text:  # the parser would drop it: 50%x is not 50x
    return None
  text = _DECIMAL.sub(_as_fraction, text)
  text = _ARGUMENT.sub(r'\1(\2)', text)
  try:
    parsed = _Reader(is_real=True).parse(text)
  except (MemoryError, RecursionError):
    raise
  except Exception:  # it raises bare Exception for a syntax error
    return None
  if not isinstance(parsed, sympy.Basic):
    return None
  # One symbol per name, whatever the parser assumed; i is the unit.
  renamed = {
    s: sympy.I if s.name == 'i' else sympy.Symbol(s.name, real=True)
    for s in parsed.free_symbols
    if isinstance(s, sympy.Symbol)
  }
  parsed = parsed.xreplace(renamed)
  if not isinstance(parsed, sympy.Expr):
    return parsed
  return parsed.replace(_is_real_root, lambda r: -((-r.base) ** r.exp))


def _is_real_root(x: Any) -> bool:
  """An odd root of a negative constant: in school, a negative number."""
  return bool(
    isinstance(x, sympy.Pow)
    and isinstance(x.exp, sympy.Rational)
    and x.exp.p == 1
    and x.exp.q % 2 == 1
    and x.exp.q > 1
    and x.base.is_number
    and x.base.is_negative
  )


def _as_fraction(m: re.Match[str]) -> str:
  whole, decimals = m.groups()
  return rf'\frac{{{int(whole + decimals)}}}{{{10 ** len(decimals)}}}'


def _letters_apart(a: str, b: str) -> tuple[str, str]:
  """Keeps `A` and `a` apart, which the parser would not."""
  pieces = [_COMMAND.split(text) for text in (a, b)]
  letters = {
    c for p in pieces for plain in p[::2] for c in plain if c.isalpha()
  }
  # To the parser E and I are constants, and D may be a derivative's.
  both = [
    c for c in letters if c.isupper() and (c.lower() in letters or c in 'DEI')
  ]
  free = (
    c
    for c in string.ascii_lowercase
    if c not in 'dei' and c not in letters and c.upper() not in letters
  )
  table = str.maketrans(dict(zip(sorted(both), free, strict=False)))
  a, b = (
    ''.join(x if x[:1] == '\\' else x.translate(table) for x in p)
    for p in pieces
  )
  return a, b


# Comparing.


def _same_relation(x: Any, y: Any) -> bool:
  """Equal up to a constant factor, positive for inequalities."""
  if not isinstance(x, _RELATIONAL) or not isinstance(y, _RELATIONAL):
    return False
  (kind, f), (other, g) = _one_sided(x), _one_sided(y)
  if kind is not other:
    return False
  if f.free_symbols != g.free_symbols or not f.free_symbols:
    return False
  ratio = sympy.simplify(f / g)
  if not ratio.is_number or ratio.is_zero or not ratio.is_finite:
    return False
  return kind in (sympy.Eq, sympy.Ne) or bool(ratio.is_positive)


def _one_sided(relation: Any) -> tuple[type, Any]:
  """`f = 0`, `f < 0` and so on: the kind and f."""
  f = relation.lhs - relation.rhs
  kind = type(relation)
  if kind in _REVERSED:
    return _REVERSED[kind], -f
  return kind, f


def _proved(x: Any, y: Any) -> bool:
  """math-verify's verdict without its numerical shortcuts.

  They need a difference that evaluates to a number, and `_agree` has ruled
  on all of those but the ones with values too large to be told apart.
  """
  if x == y:
    return True
  try:
    difference = sympy.simplify(x - y)
  except ArithmeticError:  # of a value that no precision tells from an integer
    return False
  if difference.is_zero:
    return True
  if not difference.free_symbols and not difference.atoms(sympy.Function):
    return False
  return difference.has(sympy.core.function.AppliedUndef) and verify(
    x, y, timeout_seconds=None, numeric_precision=MAX_PRECISION
  )


def _agree(x: Any, y: Any) -> bool | None:
  """Whether values agree at all points; None when that proves nothing."""
  symbols = sorted(x.free_symbols | y.free_symbols, key=str)
  result: bool | None = True
  for point in _points(symbols):
    try:
      agree = _agree_at(x.xreplace(point), y.xreplace(point))
    except (ArithmeticError, ValueError):
      # As of an integral or a derivative, whose variable is bound.
      return None
    if agree is False and all(v > 0 for v in point.values()):
      return False
    if not agree:
      # sqrt(x^2) and x differ left of zero only: that takes a proof.
      result = None
  return result


def _piecewise(x: Any) -> bool:
  """Whether agreement at some points says little about others."""
  return x.has(*_PIECEWISE) or any(
    not p.exp.is_integer and p.base.free_symbols for p in x.atoms(sympy.Pow)
  )


def _points(symbols: Sequence[Any]) -> list[Mapping[Any, Any]]:
  """Values for the symbols: two positive points, one of either sign.

  Points left of zero catch what agrees only where roots and logarithms do.
  """
  if not symbols:
    return [{}]
  draw = random.Random(len(symbols))
  points = []
  for i in range(_NUM_POINTS):
    values = [sympy.Rational(draw.randrange(1009, 3000), 1009) for _ in symbols]
    if i == _NUM_POINTS - 1:
      values = [-v if j % 2 == 0 else v for j, v in enumerate(values)]
    points.append(dict(zip(symbols, values, strict=True)))
  return points


def _agree_at(x: Any, y: Any) -> bool | None:
  """Whether two constants agree; None if one has no value to compare."""
  agree = _agree_to(x, y, _GUARD)
  if not agree:
    return agree
  digits = _digits(x) + _digits(y)
  if not digits <= MAX_PRECISION:
    return None
  return _agree_to(x, y, _GUARD + int(digits))


def _agree_to(x: Any, y: Any, digits: int) -> bool | None:
  precision = digits + 15
  u, v = _value(x, precision), _value(y, precision)
  if u is None or v is None:
    return None
  scale = max(_scale(x, precision), _scale(y, precision))
  return bool(abs(u - v) <= scale * sympy.Float(10, precision) ** -digits)


def _value(x: Any, precision: int) -> Any:
  try:
    value = x.evalf(precision, maxn=2 * precision)
    parts = value.as_real_imag()
  except (ArithmeticError, NotImplementedError, TypeError, ValueError):
    return None  # (-1)! and other functions outside of where they are defined
  if not all(isinstance(p, sympy.Float | sympy.Integer) for p in parts):
    return None
  return value


def _scale(x: Any, precision: int) -> Any:
  """An upper bound of |x| that cancellation inside x cannot make small."""
  if isinstance(x, sympy.Add):
    return sum(_scale(a, precision) for a in x.args)
  if isinstance(x, sympy.Mul):
    return math.prod(_scale(a, precision) for a in x.args)
  if isinstance(x, sympy.Pow) and x.exp.is_Integer and x.exp.is_positive:
    return _scale(x.base, precision) ** x.exp
  value = _value(x, precision)
  return sympy.Integer(1) if value is None else abs(value)


def _digits(x: Any) -> float:
  """Decimal digits that the numbers in a constant expression can span."""
  if isinstance(x, sympy.Rational):
    return (int(x.p).bit_length() + int(x.q).bit_length()) * 0.30103
  if isinstance(x, (sympy.Pow, sympy.exp)):
    base, exponent = x.as_base_exp()
    size = abs(_float(exponent))
    return (_digits(base) + 0.5) * max(size, 1.0) + _digits(exponent)
  if isinstance(x, sympy.factorial | sympy.gamma):
    n = max(abs(_float(x.args[0])), 2.0)
    return n * math.log10(n)
  if isinstance(x, sympy.binomial):
    return 0.31 * abs(_float(x.args[0])) + 1
  return sum(map(_digits, x.args))


def _float(x: Any) -> float:
  try:
    return float(abs(x.evalf(15)))
  except (TypeError, ArithmeticError):
    return math.inf
