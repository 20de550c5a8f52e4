r"""When two answers are the same.

In: two `answers.Node` trees; out: True, False, or None for undecided. What is
*not* here: how scalar expressions compare beyond exact rationals: that is the
`leaf` function's, which `symbolic` provides inside a worker.

Structure is compared here and never by a computer algebra system, whose
coercions are what false positives are made of: a set is not a scalar, a tuple
not a set, an equation chain not its last member, `1010_2` not 1010. Every
rule treats its two sides alike.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
import re

from restem_jax.rewards import ambiguity, answers, intervals, rational
from restem_jax.rewards.answers import Node

Truth = bool | None
Leaf = Callable[[str, str], Truth]

_LIMIT = re.compile(r'\\(?:sum|prod|int|lim)(?![A-Za-z])')
_NUMERAL = re.compile(r'[0-9][0-9A-Za-z.]*_')
# `007` is a code or a part of one (`1,000` in brackets, 12:05), not 7; where
# the gold is a plain number, `math` takes it for one.
_PADDED = re.compile(r'-?0[0-9]+')
# `34\text{pm}` is 34 of another kind, and no algebra's.
_WORD_BESIDE = re.compile(r'([^\\]+)(\\text\{[^{}]*\})')
_ARTICLE = re.compile(r'(?:an?|the) (?=[a-z]{4})')
# `HTH`, `ACB`, `cat`: an order of letters rather than a product.
_LETTERS = re.compile(r'(?=.*[A-Za-z]{3}|[A-Z]{2}$)[A-Za-z ]+')


def compare(a: Node, b: Node, leaf: Leaf) -> Truth:
  """Whether two answers are the same; None when `leaf` left it open."""
  if a.text == b.text:
    return True
  if points := _points(a, b):
    return _ordered(*points, leaf)
  if a.kind == 'named' and b.kind == 'named':
    if a.form == b.form:
      return compare(a.items[0], b.items[0], leaf)
    # `x=y` and `y=x`.
    return (a.form, a.items[0].text) == (b.items[0].text, b.form)
  if _inequalities(a) or _inequalities(b):
    return _compare_relations(a, b, leaf)
  if a.kind == 'named':
    return compare(a.items[0], b, leaf)
  if b.kind == 'named':
    return compare(a, b.items[0], leaf)
  if a.kind in ('list', 'set') and b.kind in ('list', 'set'):
    return _compare_lists(a, b, leaf)
  if a.kind != b.kind or a.form != b.form:
    return False
  if a.kind == 'union':
    return _unordered(a.items, b.items, leaf)
  if a.kind in ('tuple', 'matrix'):
    return _ordered(a.items, b.items, leaf)
  return leaf(a.text, b.text)


def exact(a: str, b: str) -> Truth:
  """The leaf comparison that needs no algebra: exact rationals and words.

  `50%` equals 50 and 0.5 (data sets use both conventions), never the two
  last each other. An undefined value such as `0/0` equals nothing.
  """
  if a == b:
    return True
  if ambiguity.ambiguous(a) or ambiguity.ambiguous(b):
    return False
  if _PADDED.fullmatch(a) or _PADDED.fullmatch(b):
    return False
  if '\\text{' in a or '\\text{' in b:
    m, n = _WORD_BESIDE.fullmatch(a), _WORD_BESIDE.fullmatch(b)
    return bool(m and n and m[2] == n[2] and exact(m[1], n[1]))
  try:
    u, v = rational.evaluate(a.rstrip('%')), rational.evaluate(b.rstrip('%'))
  except rational.TooLarge:
    return None
  if u is rational.UNDEFINED or v is rational.UNDEFINED:
    return False
  if isinstance(u, Fraction) and isinstance(v, Fraction):
    percent = a.endswith('%') - b.endswith('%')
    if not percent:
      return u == v
    return u == v or (u == 100 * v if percent > 0 else 100 * u == v)
  if _NUMERAL.search(a) or _NUMERAL.search(b):
    return False  # a numeral in some base is its digits and its base
  if answers.EMPTY in (a, b) or _infinite(a) or _infinite(b):
    return False
  return _compare_words(a, b)


def _infinite(text: str) -> bool:
  r"""Whether it computes with infinity: `\frac{1}{\infty}` is no number."""
  return '\\infty' in text and not _LIMIT.search(text)


def _compare_words(a: str, b: str) -> Truth:
  if answers.is_word(a) or answers.is_word(b):
    return _bare_words(a) == _bare_words(b)
  if _LETTERS.fullmatch(a) and _LETTERS.fullmatch(b):
    # A capital at the start of a word is no matter.
    return a[1:] == b[1:] and a[1:].islower() and a[0].lower() == b[0].lower()
  if len(a) == 1 and len(b) == 1:
    return False  # two letters, or a letter and a digit
  return None


def _bare_words(text: str) -> str:
  """`an ellipse` as `ellipse`, `no solutions` as `no solution`."""
  text = _ARTICLE.sub('', text.lower())
  return text.replace(' ', '').removesuffix('s')


def _points(a: Node, b: Node) -> tuple[Sequence[Node], Sequence[Node]] | None:
  """The coordinates to compare of `x=1,y=2` and `(x,y)=(1,2)` or `(1,2)`."""
  if a.kind != 'list':
    a, b = b, a
  p, q = _coordinates(a), _coordinates(b)
  if a.kind != 'list' or b.kind not in ('named', 'tuple') or not p:
    return None
  if q:
    same_names = p.keys() == q.keys()
    return [*p.values()], [q[name] for name in p] if same_names else []
  if b.kind == 'tuple' and b.form == '()':
    letters = all(len(name) == 1 for name in p)
    return [p[n] for n in (sorted(p) if letters else p)], b.items
  return None


def _coordinates(node: Node) -> dict[str, Node]:
  """The values of a point by their names; {} when it is none."""
  if node.kind == 'list' and ';' not in node.text and _names(node):
    return {i.form: i.items[0] for i in node.items}
  if node.kind == 'named' and node.items[0].form == '()':
    names, values = node.form.strip('()').split(','), node.items[0].items
    if len(set(names)) == len(values):
      return dict(zip(names, values, strict=True))
  return {}


def _compare_lists(a: Node, b: Node, leaf: Leaf) -> Truth:
  # 'AB=4, CD=5' against '4, 5': the names fix the order.
  if _names(a) != _names(b):
    return _ordered(a.items, b.items, leaf)
  return _unordered(a.items, b.items, leaf)


def _names(node: Node) -> bool:
  """Whether every item has a name of its own."""
  names = {i.form for i in node.items if i.kind == 'named'}
  return len(names) == len(node.items)


def _ordered(a: Sequence[Node], b: Sequence[Node], leaf: Leaf) -> Truth:
  if len(a) != len(b):
    return False
  result: Truth = True
  for x, y in zip(a, b, strict=True):
    same = compare(x, y, leaf)
    if same is False:
      return False
    if same is None:
      result = None
  return result


def _unordered(a: Sequence[Node], b: Sequence[Node], leaf: Leaf) -> Truth:
  """Whether the items pair up, repeated ones counting once.

  Pairing greedily is enough: sameness of items is transitive.
  """
  left = list({x.text: x for x in a}.values())
  right = list({y.text: y for y in b}.values())
  if len(left) != len(right):
    return False
  for x in list(left):
    twin = next((y for y in right if x.text == y.text), None)
    if twin is not None:
      left.remove(x)
      right.remove(twin)
  result: Truth = True
  for x in left:
    open_ = False
    for y in right:
      same = compare(x, y, leaf)
      if same:
        right.remove(y)
        break
      open_ = open_ or same is None
    else:
      if not open_:
        return False
      result = None
  return result


def _inequalities(node: Node) -> bool:
  if node.kind == 'list':
    return bool(node.form) or any(i.kind == 'relation' for i in node.items)
  return node.kind == 'relation'


def _compare_relations(a: Node, b: Node, leaf: Leaf) -> Truth:
  u, v = intervals.solutions(a), intervals.solutions(b)
  if u and v:  # `x>3`, `3<x`: same name and same set
    if u[0] and v[0] and u[0] != v[0]:
      return False
    return compare(u[1], v[1], leaf)
  if a.kind == 'list' and b.kind == 'list':
    if 'or' in (a.form, b.form) and a.form != b.form:
      return False
    return _compare_lists(a, b, leaf)
  if a.kind == 'relation' and b.kind == 'relation':
    for form, items in ((b.form, b.items), intervals.flipped(b)):
      if a.form == form and _ordered(a.items, items, exact):
        return True
    if ' ' in a.form or ' ' in b.form:  # chains: as written, or not at all
      return False
    return leaf(a.text, b.text)
  if u:
    a, b, v = b, a, u
  if v and a.kind in ('tuple', 'union'):
    return compare(a, v[1], leaf)
  if a.kind == 'relation':
    a, b = b, a
  if a.kind == 'named' and b.kind == 'relation' and b.form == '=':
    return leaf(a.text, b.text)
  return False
