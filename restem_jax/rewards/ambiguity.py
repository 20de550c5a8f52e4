r"""Expressions that two readers read as two values.

In: a canonical expression (`normalize.normalize`); out: whether it is one of

  `2/3x`  `1/2\sqrt{3}`  `6/2(1+2)`   a quotient with a product under it that
                                      only stands side by side
  `\ln2/2`  `\log_{2}3/4`             a logarithm of a bare quotient

Which value was meant is not guessed: such an answer equals its own spelling
and no other (`equivalence.exact`). `\frac{2}{3x}`, `2/(3x)`, `(2/3)x`,
`2/3\cdot x` and `\ln(2)/2` have one reading, and so do `1/\sin2x` and
`\cos\pi/3`, which all readers read alike. What is *not* here: mixed numbers
(`rational`).
"""

from collections.abc import Sequence
import functools
import re

_TOKEN = re.compile(
  r'\\[A-Za-z]+|\\.|(?:[0-9]+\.?[0-9]*|\.[0-9]+)|[A-Za-z]|\S', re.DOTALL
)
_OVER = ('/', '\\div')
_OPEN = {'(': 1, '[': 1, '{': 1, ')': -1, ']': -1, '}': -1}
_LOGARITHMS = ('\\ln', '\\log')
_FUNCTIONS = (
  *_LOGARITHMS,
  *(f'\\{arc}{f}' for arc in ('', 'arc') for f in ('sin', 'cos', 'tan')),
  *('\\cot', '\\sec', '\\csc', '\\sinh', '\\cosh', '\\tanh', '\\exp'),
)
_WITH_GROUPS = {'\\frac': 2, '\\binom': 2, '\\sqrt': 1}
# Commands that are no factor of a product.
_BETWEEN = frozenset(
  re.findall(
    r'\S+',
    r'\cdot \div \pm \mp \le \ge \ne \approx \equiv \in \cup \cap \to \mod '
    r'\bmod \pmod \dots \setminus \end \rfloor \rceil \rangle \text',
  )
)


@functools.lru_cache(maxsize=1 << 14)
def ambiguous(text: str) -> bool:
  """Whether the value of `text` depends on who reads it."""
  if '/' not in text and '\\div' not in text:
    return False
  tokens = _TOKEN.findall(text)
  for at, token in enumerate(tokens):
    if token in _OVER and _factor_at(tokens, _past_factor(tokens, at + 1)):
      return True
    if token in _LOGARITHMS:
      end = _past_scripts(tokens, at + 1)
      if not _group_at(tokens, end) and _is(
        tokens, _past_atoms(tokens, end), _OVER
      ):
        return True
  return False


def _is(tokens: Sequence[str], at: int, what: Sequence[str]) -> bool:
  return at < len(tokens) and tokens[at] in what


def _group_at(tokens: Sequence[str], at: int) -> bool:
  return _is(tokens, at, ('(', '[', '{'))


def _atom_at(tokens: Sequence[str], at: int) -> bool:
  """Whether a number, a letter or the name of a constant is there."""
  if at >= len(tokens):
    return False
  token = tokens[at]
  if token[0] == '\\':
    return (
      token[1].isalpha()
      and token not in _BETWEEN
      and token not in _FUNCTIONS
      and token not in _WITH_GROUPS
    )
  return token[0].isalnum() or token[0] == '.'


def _factor_at(tokens: Sequence[str], at: int) -> bool:
  """Whether something is there that stands for a number."""
  return (
    _group_at(tokens, at)
    or _atom_at(tokens, at)
    or _is(tokens, at, _FUNCTIONS)
    or _is(tokens, at, tuple(_WITH_GROUPS))
  )


def _past_group(tokens: Sequence[str], at: int) -> int:
  """Past the bracket that closes the one at `at`, or past all."""
  depth = 0
  for i in range(at, len(tokens)):
    depth += _OPEN.get(tokens[i], 0)
    if depth == 0:
      return i + 1
  return len(tokens)


def _past_scripts(tokens: Sequence[str], at: int) -> int:
  """Past exponents, indices, `!`, `'` and `%`."""
  while at < len(tokens):
    if tokens[at] in ('^', '_'):
      at += 1
      at = _past_group(tokens, at) if _group_at(tokens, at) else at + 1
    elif tokens[at] == '\\overline' and _group_at(tokens, at + 1):
      at = _past_group(tokens, at + 1)
    elif tokens[at] in ('!', "'", '%'):
      at += 1
    else:
      break
  return at


def _past_atoms(tokens: Sequence[str], at: int) -> int:
  while _atom_at(tokens, at):
    at = _past_scripts(tokens, at + 1)
  return at


def _past_factor(tokens: Sequence[str], at: int) -> int:
  """Past what a division at `at - 1` divides by, in the shortest reading."""
  while _is(tokens, at, ('-', '+')):
    at += 1
  if _is(tokens, at, _FUNCTIONS):
    at = _past_scripts(tokens, at + 1)
    if not _group_at(tokens, at):
      return _past_atoms(tokens, at)
  elif _is(tokens, at, tuple(_WITH_GROUPS)):
    groups = _WITH_GROUPS[tokens[at]]
    at += 1
    if groups == 1 and _is(tokens, at, ('[',)):
      at = _past_group(tokens, at)
    for _ in range(groups - 1):
      at = _past_group(tokens, at)
  elif not _group_at(tokens, at):
    return _past_scripts(tokens, at + 1)
  return _past_scripts(tokens, _past_group(tokens, at))
