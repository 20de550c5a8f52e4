r"""Exact values of number expressions, without eval and without sympy.

In: a normalised LaTeX expression (`normalize.normalize`); out: a Fraction,
UNDEFINED (a division by zero, 0^0), or None when it is no expression of
rational numbers. What is *not* here: symbols, and irrational values.

Grammar: integers, decimals, `1e3`, `\overline` repeating decimals, mixed
numbers, `+ - \cdot \div / ^ !`, `\frac`, `\binom`, roots that come out even,
parentheses, implicit products such as `2(3)`. Numbers are kept as unreduced
pairs and never grow over `max_bits`; the work is bounded by MAX_STEPS.
"""

from fractions import Fraction
import functools
import math
import re
from typing import Final

MAX_STEPS: Final = 200
MAX_DEPTH: Final = 30
MAX_DIGITS: Final = 1000  # of one literal; int() itself refuses over 4300

_TOKEN = re.compile(
  r'(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?'
  r'(?:\\overline\{[0-9]{1,40}\})?)'
  r'|(?P<op>[-+/^!(){}\[\]]|\\(?:frac|cdot|div|sqrt|binom)(?![A-Za-z]))'
  r'|(?P<space>\s+)'
)


_LITERAL = re.compile(
  r'-?(?:[0-9]+(?: ?/ ?[0-9]+| [0-9]+/[0-9]+)?|(?:[0-9]+\.?[0-9]*|\.[0-9]+)'
  r'(?:[eE][+-]?[0-9]+|\\cdot10\^\{-?[0-9]+\})?(?:\\overline\{[0-9]+\})?'
  r'|[0-9]*\\frac\{-?[0-9]+\}\{-?[0-9]+\})%?'
)


class TooLarge(ValueError):
  """A value or the work to get it exceeds the limits."""


class _Undefined:
  def __repr__(self) -> str:
    return 'UNDEFINED'


UNDEFINED: Final = _Undefined()
Value = Fraction | _Undefined | None


@functools.lru_cache(maxsize=1 << 14)
def evaluate(text: str, *, max_bits: int = 1 << 15) -> Value:
  """The exact value of `text`; see the module's docstring.

  Raises:
    TooLarge: when a number would need more than `max_bits` bits.
  """
  tokens = _tokenize(text)
  if not tokens:
    return None
  parser = _Parser(tokens, max_bits)
  try:
    num, den = parser.sum(0)
  except _NotRational:
    return None
  except ZeroDivisionError:
    return UNDEFINED
  if parser.at != len(tokens):
    return None
  return Fraction(num, den)


def is_literal(text: str) -> bool:
  """Whether `text` spells one number, with nothing left to work out.

  Integers, decimals, fractions, mixed and scientific numbers, per cent.
  """
  return bool(_LITERAL.fullmatch(text))


class _NotRational(ValueError):
  pass


_Pair = tuple[int, int]  # numerator, denominator > 0; not reduced


def _tokenize(text: str) -> list[str] | None:
  tokens = []
  at = 0
  while at < len(text):
    m = _TOKEN.match(text, at)
    if m is None:
      return None
    if m.lastgroup != 'space':
      tokens.append(m.group())
    elif tokens:
      tokens.append(' ')
    at = m.end()
  return tokens


class _Parser:
  """Recursive descent over the tokens; depth and steps are bounded."""

  def __init__(self, tokens: list[str], max_bits: int):
    self.tokens = tokens
    self.at = 0
    self.max_bits = max_bits
    self.steps = 0

  # Tokens.

  def peek(self) -> str:
    while self.at < len(self.tokens) and self.tokens[self.at] == ' ':
      self.at += 1
    return self.tokens[self.at] if self.at < len(self.tokens) else ''

  def take(self, expected: str) -> None:
    if self.peek() != expected:
      raise _NotRational
    self.at += 1

  def keep(self, num: int, den: int) -> _Pair:
    self.steps += 1
    bits = max(num.bit_length(), den.bit_length())
    if self.steps > MAX_STEPS or bits > self.max_bits:
      raise TooLarge(f'a number of {bits} bits after {self.steps} steps')
    if den == 0:
      raise ZeroDivisionError
    return (-num, -den) if den < 0 else (num, den)

  # Grammar.

  def sum(self, depth: int) -> _Pair:
    if depth > MAX_DEPTH:
      raise TooLarge('nesting')
    a, b = self.product(depth)
    while (op := self.peek()) in ('+', '-'):
      self.at += 1
      c, d = self.product(depth)
      if op == '-':
        c = -c
      a, b = self.keep(a + c, b) if b == d else self.keep(a * d + c * b, b * d)
    return a, b

  def product(self, depth: int) -> _Pair:
    sign = 1
    while (op := self.peek()) in ('+', '-'):
      self.at += 1
      sign = -sign if op == '-' else sign
    mixed = self.mixed()
    a, b = mixed if mixed else self.power(depth)
    while True:
      op = self.peek()
      if op in ('\\cdot', '\\div', '/'):
        self.at += 1
        negative = 1
        while self.peek() == '-':
          self.at += 1
          negative = -negative
        c, d = self.power(depth)
        c *= negative
        if op != '\\cdot':
          if c == 0:
            raise ZeroDivisionError
          c, d = d, c
      elif op in ('(', '\\frac', '\\sqrt', '\\binom'):
        c, d = self.power(depth)  # implicit product
      else:
        return sign * a, b
      a, b = self.keep(a * c, b * d)

  def mixed(self) -> _Pair | None:
    r"""`2\frac{1}{3}` and `2 1/3`: an integer beside a proper fraction."""
    rest = self.tokens[self.at : self.at + 8]
    if not rest or not rest[0].isdigit():
      return None
    tail = rest[1:]
    spaced = tail[:1] == [' ']
    if spaced:
      tail = tail[1:]
    match tail:
      case ['\\frac', '{', n, '}', '{', d, '}', *_]:
        used = 7
      case [n, '/', d, *_] if spaced:
        used = 3
      case _:
        return None
    if not (n.isdigit() and d.isdigit()) or int(n) >= int(d):
      return None
    self.at += 1 + spaced + used
    if self.peek() in ('^', '!'):
      raise _NotRational
    whole, num, den = int(rest[0]), int(n), int(d)
    return self.keep(whole * den + num, den)

  def power(self, depth: int) -> _Pair:
    if depth > MAX_DEPTH:
      raise TooLarge('nesting')
    a, b = self.atom(depth)
    while self.peek() == '!':
      self.at += 1
      if b != 1 or a < 0:
        raise _NotRational
      if a * max(a.bit_length() - 1, 1) > self.max_bits:
        raise TooLarge(f'{a}!')
      a, b = self.keep(math.factorial(a), 1)
    if self.peek() != '^':
      return a, b
    self.at += 1
    if self.peek() == '{':
      n, d = self.group(depth)
    else:
      sign = 1
      if self.peek() == '-':
        self.at += 1
        sign = -1
      n, d = self.power(depth + 1)
      n *= sign
    if self.peek() in ('^', '!'):
      raise _NotRational
    return self.raised(a, b, n, d)

  def raised(self, a: int, b: int, n: int, d: int) -> _Pair:
    if d != 1:
      g = math.gcd(n, d)
      n, d = n // g, d // g
    if d != 1:
      a, b = self.root(a, b, d)
    if a == 0 and n <= 0:
      raise ZeroDivisionError  # 0^0 has no one value either
    if n < 0:
      a, b, n = b, a, -n
    bits = max(a.bit_length(), b.bit_length())
    if bits > 1 and n * (bits - 1) > self.max_bits:
      raise TooLarge(f'a power with {bits} bits and exponent {n}')
    # Only 1, -1 and 0 get here with a large exponent: parity is enough.
    if bits <= 1 and n > 2:
      n = 2 - n % 2
    return self.keep(a**n, b**n)

  def root(self, a: int, b: int, degree: int) -> _Pair:
    if a < 0 and degree % 2 == 0:
      raise _NotRational
    g = math.gcd(a, b)
    num, den = _exact_root(abs(a) // g, degree), _exact_root(b // g, degree)
    if num is None or den is None:
      raise _NotRational
    return self.keep(-num if a < 0 else num, den)

  def group(self, depth: int) -> _Pair:
    self.take('{')
    pair = self.sum(depth + 1)
    self.take('}')
    return pair

  def atom(self, depth: int) -> _Pair:
    token = self.peek()
    self.at += 1
    if token == '(':
      pair = self.sum(depth + 1)
      self.take(')')
      return pair
    if token == '{':
      self.at -= 1
      return self.group(depth)
    if token == '\\frac':
      (a, b), (c, d) = self.group(depth), self.group(depth)
      return self.keep(a * d, b * c)
    if token == '\\binom':
      (n, n1), (k, k1) = self.group(depth), self.group(depth)
      if n1 != 1 or k1 != 1 or not 0 <= k <= n:
        raise _NotRational
      if min(k, n - k) * n.bit_length() > self.max_bits:
        raise TooLarge(f'binomial of {n} and {k}')
      return self.keep(math.comb(n, k), 1)
    if token == '\\sqrt':
      degree = 2
      if self.peek() == '[':
        self.at += 1
        n, d = self.sum(depth + 1)
        self.take(']')
        if d != 1 or not 1 <= n <= 64:
          raise _NotRational
        degree = n
      a, b = self.group(depth)
      return self.root(a, b, degree)
    if not token[:1].isdigit() and token[:1] != '.':
      raise _NotRational
    return self.number(token)

  def number(self, token: str) -> _Pair:
    if len(token) > MAX_DIGITS:
      raise TooLarge(f'a number of {len(token)} characters')
    if token.isdigit():
      return self.keep(int(token), 1)
    token, _, repeating = token.partition('\\overline')
    mantissa, _, exponent = token.lower().partition('e')
    whole, _, decimals = mantissa.partition('.')
    power = int(exponent or 0)
    if 4 * abs(power) > self.max_bits:
      raise TooLarge(f'an exponent of {power}')
    num, den = int(whole + decimals), 10 ** len(decimals)
    if repeating:
      if '.' not in mantissa or exponent:
        raise _NotRational
      digits = repeating[1:-1]
      nines = 10 ** len(digits) - 1
      num, den = num * nines + int(digits), den * nines
    if power >= 0:
      return self.keep(num * 10**power, den)
    return self.keep(num, den * 10**-power)


def _exact_root(n: int, degree: int) -> int | None:
  """The integer root of n >= 0, or None when it is not an integer."""
  if degree > n.bit_length():
    return n if n <= 1 else None
  low, high = 0, 1 << (n.bit_length() // degree + 1)
  while low < high:
    middle = (low + high) // 2
    if middle**degree < n:
      low = middle + 1
    else:
      high = middle
  return low if low**degree == n else None
