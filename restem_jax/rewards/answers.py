r"""What kind of thing an answer is.

In: a canonical string (`normalize.normalize`); out: a tree of what the answer
is made of. What is *not* here: when two answers are the same (`equivalence`).

  list   `1,2` `1 \text{ and } 2` `\pm 3`  unordered; equals a set
         `(\pm 1,2)`                       the list of two tuples
         `x<1\lor x>2`                     of inequalities: how they join
  set    `\{1,2\}`                         unordered, never a scalar
  tuple  `(1,2)` `[0,1)` `1:2`             ordered, same brackets
  union  `(0,1)\cup(2,3)`                  unordered
  matrix `\begin{pmatrix}...`              row by row
  named  `x=5` `f(x)=x^2`                  its value, unless names differ
  relation `x+y=1` `1<x<2`                 `a<x<b` also equals an interval
  leaf   anything else
"""

from collections.abc import Sequence
import dataclasses
from fractions import Fraction
import functools
import itertools
import re
from typing import Literal

from restem_jax.rewards import rational

Kind = Literal[
  'list', 'set', 'tuple', 'union', 'matrix', 'named', 'relation', 'leaf'
]

MAX_ITEMS = 64
MAX_DEPTH = 12

_OPEN = {'(': 1, '[': 1, '{': 1, ')': -1, ']': -1, '}': -1}
_PIECE = re.compile(
  r'\\(?:begin|end)\{[a-z]*\*?\}|\\[{}]|\\[A-Za-z]+|\\.|.', re.DOTALL
)
_SPACED = re.compile(r'-?[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?%?')
_MATRIX = re.compile(
  r'(?:\\begin\{(?P<env>[pbB]?matrix|array)\}(?:\{[lcr|]*\})?'
  r'(?P<body>.*)\\end\{(?P=env)\})',
  re.DOTALL,
)
_SIGN = re.compile(r'\\(?:pm|mp)(?![A-Za-z]) ?')
_LEADING_SIGN = re.compile(rf'(?:^|(?<=[,;(])){_SIGN.pattern}')
_SCRIPT = re.compile(r'_(?:\{[^{}]*\}|[A-Za-z0-9])|\^\{-1\}(?=\()')
_ARGUMENTS = re.compile(r'(?<=[A-Za-z])\([^()]*\)')
_NAME = re.compile(r"[A-Za-z\\(){},:|' ]+")
_FUNCTION = re.compile(
  r'\\?(?:arc)?(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|det|gcd|lcm)'
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z ,.'\-]*")
_LETTERS = re.compile(r'[A-Za-z]+')
# `\{x\in\mathbb{R}|x<1\}` is what it says of x.
_BUILDER = re.compile(
  r'(?P<name>[A-Za-z])(?:\\in ?\\mathbb\{R\})?[|:](?P<condition>[^|:]*'
  r'(?<![A-Za-z])(?P=name)(?![A-Za-z])[^|:]*)'
)
_REALS = '\\mathbb{R}'
_REALS_WITHOUT = re.compile(
  r'\\mathbb\{R\}(?:\\setminus ?|-)\\\{(?P<points>[^{}]*)\\\}'
)
EMPTY = '\\emptyset'
_JOINS = {'\\lor': 'or', '\\land': 'and'}
_RELATIONS = ('=', '<', '>', '\\le', '\\ge', '\\ne', '\\approx', '\\equiv')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
  """An answer or a part of one."""

  kind: Kind
  text: str  # canonical spelling of the whole
  items: tuple['Node', ...] = ()
  # Brackets of a tuple, name of a named, operators of a relation, shape of a
  # matrix, 'or' and 'and' of a list that says so.
  form: str = ''


class TooComplex(ValueError):
  """More items or deeper nesting than any answer has."""


@functools.lru_cache(maxsize=1 << 15)
def parse(text: str) -> Node:
  """The structure of a canonical answer.

  Raises:
    TooComplex: over MAX_ITEMS items or MAX_DEPTH levels.
  """
  return _parse(text, 0)


def leaves(node: Node) -> list[str]:
  """The texts that `leaf` would see, relations whole."""
  if node.kind in ('leaf', 'relation'):
    return [node.text]
  return [text for item in node.items for text in leaves(item)]


def is_word(text: str) -> bool:
  """Whether a leaf is a word such as `even` rather than an expression."""
  return bool(_WORDS.fullmatch(text)) and any(
    len(w) >= 4 or w.lower() in ('no', 'yes', 'odd', 'one', 'two')
    for w in _LETTERS.findall(text)
  )


def leaf(text: str) -> Node:
  """The node of a text without structure."""
  return Node(kind='leaf', text=text)


def _parse(text: str, depth: int) -> Node:
  if depth > MAX_DEPTH:
    raise TooComplex('nesting')
  if _SPACED.fullmatch(text):
    return leaf(text.replace(' ', ''))
  if text == _REALS:
    return _parse('(-\\infty,\\infty)', depth)
  if m := _REALS_WITHOUT.fullmatch(text):
    return _without(text, m['points'].split(','), depth)
  pieces = _pieces(text)
  down = depth + 1
  parts, separators = _split(pieces, (',', ';', *_JOINS))
  parts = [p for p in parts if p]
  if len(parts) > 1:
    return _list(text, [_parse(p, down) for p in parts], _join(separators))
  sides, ops = _split(pieces, (*_RELATIONS, '\\in'))
  if ops and all(sides):
    return _relation(text, sides, ops, down)
  parts, _ = _split(pieces, ('\\cup',))
  if len(parts) > 1 and all(parts):
    return Node(
      kind='union', text=text, items=tuple(_parse(p, down) for p in parts)
    )
  if m := _MATRIX.fullmatch(_without_brackets(text)):
    return _matrix(text, m.group('body'), down)
  if inner := _bracketed(pieces):
    return _group(text, inner, pieces, down)
  parts, _ = _split(pieces, (':',))
  if len(parts) > 1 and all(parts):
    items = tuple(_parse(p, down) for p in parts)
    return Node(kind='tuple', text=text, items=items, form=':')
  if len(_SIGN.findall(text)) == 1:
    return _list(text, [_parse(s, down) for s in _signed(text)])
  return leaf(text)


def _without(text: str, points: Sequence[str], depth: int) -> Node:
  """All numbers but some, as the intervals between those."""
  values = {_value(point): point for point in points}
  if None in values:
    return leaf(text)
  ends = ['-\\infty', *(p for _, p in sorted(values.items())), '\\infty']
  return _parse(
    '\\cup'.join(f'({a},{b})' for a, b in itertools.pairwise(ends)), depth
  )


def _signed(text: str) -> list[str]:
  r"""`1\pm x` with plus and with minus; no plus begins a part."""
  plus = _LEADING_SIGN.sub('', text)
  return [_SIGN.sub(s, t) for s, t in (('+', plus), ('-', text))]


def _join(separators: Sequence[str]) -> str:
  """'or' of `a, b or c` and of `a or b`, 'and' likewise; '' for neither."""
  found = set(separators) & _JOINS.keys()
  if len(found) == 1 and separators[-1] in found:
    return _JOINS[separators[-1]]
  return ''


def _list(text: str, items: Sequence[Node], form: str = '') -> Node:
  flat: list[Node] = []
  for item in items:
    flat.extend(item.items if item.kind == 'list' else [item])
  if len(flat) > MAX_ITEMS:
    raise TooComplex(f'{len(flat)} items')
  return Node(kind='list', text=text, items=tuple(flat), form=form)


def _group(text: str, inner: str, pieces: Sequence[str], depth: int) -> Node:
  """What stands between the outermost pair of brackets."""
  brackets = pieces[0].strip('\\') + pieces[-1].strip('\\')
  if brackets == '{}' and (m := _BUILDER.fullmatch(inner)):
    node = _parse(m['condition'], depth)
    if node.kind == 'relation' or node.form in _JOINS.values():
      return node
  node = _parse(inner, depth)
  if pieces[0] == '\\{':
    if node.kind in ('relation', 'union') or node.form in _JOINS.values():
      return leaf(text)  # set-builder notation
    items = node.items if node.kind == 'list' else (node,)
    return Node(kind='set', text=text, items=items)
  if pieces[0] == '{':
    return dataclasses.replace(node, text=inner)
  if node.kind == 'list' and node.form:
    return node
  if node.kind == 'list':
    parts, _ = _split(_pieces(inner), (',', ';'))
    parts = [p for p in parts if p]
    # `(\pm 1,2)` is two tuples. Of two signs it is not said whether they go
    # together: such a tuple equals only one with the same signs.
    signs = _SIGN.findall(inner)
    if len(parts) > 1 and len(signs) == 1 and brackets == '()':
      return _list(text, [_parse(f'({s})', depth) for s in _signed(inner)])
    if len(parts) > 1:
      items = tuple(_parse(p, depth) for p in parts)
      form = ' '.join([brackets, *(s.strip() for s in signs)])
      return Node(kind='tuple', text=text, items=items, form=form)
  if brackets in ('()', '[]') and node.kind not in ('named', 'relation'):
    return node
  return leaf(text)


def _relation(
  text: str, sides: Sequence[str], ops: Sequence[str], depth: int
) -> Node:
  if (short := _shortened(sides, ops)) is not None:
    return _parse(short, depth)
  if list(ops) == ['\\in']:
    return _parse(sides[1], depth) if is_name(sides[0]) else leaf(text)
  if '\\in' in ops:
    return leaf(text)
  if list(ops) == ['=']:
    left, right = sides
    if is_name(right) and not is_name(left):
      left, right = right, left
    if is_name(left) or is_word(left):
      value = _parse(right, depth)
      return Node(kind='named', text=text, items=(value,), form=left)
  items = tuple(_parse(s, depth) for s in sides)
  return Node(kind='relation', text=text, items=items, form=' '.join(ops))


def _shortened(sides: Sequence[str], ops: Sequence[str]) -> str | None:
  r"""What is left to read of an answer with its working or its rounding.

  `x=2+3=5` is `x=5` if all members are the same exact number; of
  `\frac{10}{3}\approx3.33` the first counts, if the other can be its rounding.
  None for any other relation.
  """
  if ops[-1] == '\\approx' and set(ops[:-1]) <= {'='}:
    if len(sides) == 2 and is_name(sides[0]):
      return '='.join(sides)
    return '='.join(sides[:-1]) if _rounded(*sides[-2:]) else None
  if set(ops) != {'='} or len(set(sides)) < len(sides):
    return None
  first = int(is_name(sides[0]) or is_word(sides[0]))
  values = {_value(side) for side in sides[first:]}
  if len(sides) - first < 2 or len(values) > 1 or None in values:
    return None
  return '='.join([*sides[:first], sides[-1]])


def _rounded(exact: str, decimal: str) -> bool:
  """Whether a decimal is, or without algebra may be, another's rounding."""
  shown, value = _value(decimal), _value(exact)
  if shown is None or not rational.is_literal(decimal):
    return False
  if value is None:
    return True
  last_place = Fraction(1, 10 ** len(decimal.partition('.')[2]))
  cut_off = 0 <= abs(value) - abs(shown) < last_place
  return cut_off or abs(value - shown) <= last_place / 2


def _value(text: str) -> Fraction | None:
  try:
    value = rational.evaluate(text)
  except rational.TooLarge:
    return None
  return value if isinstance(value, Fraction) else None


def _matrix(text: str, body: str, depth: int) -> Node:
  rows = [row for row in body.split('\\\\') if row.strip()]
  cells = [row.split('&') for row in rows]
  width = {len(row) for row in cells}
  if len(width) != 1 or sum(map(len, cells)) > MAX_ITEMS:
    raise TooComplex('matrix')
  items = tuple(_parse(c.strip(), depth) for row in cells for c in row)
  form = f'{len(cells)}x{width.pop()}'
  return Node(kind='matrix', text=text, items=items, form=form)


def is_name(text: str) -> bool:
  """Whether `text` names something: `x`, `a_{3}`, `f(2)`, `AB`, `(p,q)`."""
  bare = _ARGUMENTS.sub('', _SCRIPT.sub('', text))
  return (
    bool(_NAME.fullmatch(bare))
    and any(c.isalpha() for c in bare)
    and not _FUNCTION.search(bare)
    and bare not in ('\\pi', 'e', 'i', '\\infty', '-\\infty', EMPTY)
    and not is_word(bare)
  )


def _pieces(text: str) -> list[str]:
  return _PIECE.findall(text)


def _split(
  pieces: Sequence[str], at: Sequence[str]
) -> tuple[list[str], list[str]]:
  """Splits at separators outside all brackets; (parts, separators)."""
  parts, separators = [''], []
  depth = 0
  for piece in pieces:
    depth += _OPEN.get(piece.strip('\\') if len(piece) == 2 else piece, 0)
    if piece.startswith('\\begin'):
      depth += 1
    elif piece.startswith('\\end'):
      depth -= 1
    if depth <= 0 and piece in at:
      parts.append('')
      separators.append(piece)
    else:
      parts[-1] += piece
  return [p.strip() for p in parts], separators


def _bracketed(pieces: Sequence[str]) -> str:
  """What the brackets around the whole hold; '' when there are none."""
  if len(pieces) < 3 or pieces[0] not in ('(', '[', '{', '\\{'):
    return ''
  if pieces[-1] not in (')', ']', '}', '\\}'):
    return ''
  depth = 0
  for i, piece in enumerate(pieces):
    depth += _OPEN.get(piece.strip('\\') if len(piece) == 2 else piece, 0)
    if depth == 0:
      return ''.join(pieces[1:-1]) if i == len(pieces) - 1 else ''
  return ''


def _without_brackets(text: str) -> str:
  r"""`\left[\begin{array}...` is a matrix: the array's own brackets go."""
  if text[:1] in ('(', '[') and text[1:].startswith('\\begin{array}'):
    return text[1:-1]
  return text
