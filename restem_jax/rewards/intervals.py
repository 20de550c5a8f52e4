r"""What inequalities in one variable say of it, as intervals.

In: an `answers.Node`; out: the variable's name and the node of an interval or
of a union. What is *not* here: comparing (`equivalence`), and inequalities
that must first be solved.

  `x>3`  `1<x\le 2`           one interval
  `x\ne 3`                    two
  `x<-1\lor x>1`              a union, of `x=5` too
  `x>1\land x<3`              what two rays share
  `x<-1,x>1`  `x>1,x<3`       as the only way to read it: `and` of the first is
                              nothing, `or` of the second is everything

`x<-1 and x>1` is not the union, though some write it so: it holds for no x.
Endpoints that have no exact rational value leave a comma open.
"""

from collections.abc import Sequence
from fractions import Fraction
import itertools
import math
import re

from restem_jax.rewards import answers, rational
from restem_jax.rewards.answers import Node

Solutions = tuple[str, Node]  # the variable, its values

_FLIPPED = {'<': '>', '>': '<', '\\le': '\\ge', '\\ge': '\\le'}
# `|x|<3` and `\\lfloor x\\rfloor<3` say of x something else than x<3.
_NO_VARIABLE = re.compile(r'\||\\[lr](?:floor|ceil)')
_LOW, _HIGH = '-\\infty', '\\infty'


def solutions(node: Node) -> Solutions | None:
  r"""Name and values of the variable; None if it is not as simple as above.

  The name is '' where none is left, as of `x\in(0,1)`.
  """
  if node.kind == 'relation':
    return _interval(node) or _without(node)
  if node.kind != 'list':
    return None
  found = [_piece(item) for item in node.items]
  pieces = [piece for piece in found if piece is not None]
  names = {name for name, _ in pieces if name}
  # A comma between bare intervals may be one between points.
  if len(pieces) < len(found) or len(names) > 1 or not (names or node.form):
    return None
  name = names.pop() if names else ''
  sets = [values for _, values in pieces]
  join = node.form or _implied(sets)
  if join == 'or':
    return name, _union(sets)
  if join == 'and' and (shared := _shared(sets)):
    return name, shared
  return None


def flipped(node: Node) -> tuple[str, tuple[Node, ...]]:
  """Operators and sides of a relation that is read from right to left."""
  ops = [_FLIPPED.get(op, op) for op in reversed(node.form.split())]
  return ' '.join(ops), tuple(reversed(node.items))


def _piece(node: Node) -> Solutions | None:
  """Of one item of a list; the name is '' for a bare interval."""
  if node.kind == 'relation':
    return _interval(node)
  if node.kind == 'named' and node.items[0].kind == 'leaf':
    return node.form, Node(
      kind='set', text=f'\\{{{node.items[0].text}\\}}', items=node.items
    )
  if node.kind == 'tuple' and len(node.items) == len(node.form) == 2:
    return '', node
  return None


def _interval(node: Node) -> Solutions | None:
  r"""Of `x>3` or `1<x\le 2`."""
  form, items = node.form, node.items
  if form.startswith(('>', '\\ge')):
    form, items = flipped(node)
  ops = form.split()
  if not all(op in ('<', '\\le') for op in ops):
    return None
  if len(items) == 2 and _is_variable(items[0]):
    name, low, high = items[0], answers.leaf(_LOW), items[1]
    ops = ['<', *ops]
  elif len(items) == 2 and _is_variable(items[1]):
    name, low, high = items[1], items[0], answers.leaf(_HIGH)
    ops = [*ops, '<']
  elif len(items) == 3 and _is_variable(items[1]):
    low, name, high = items
  else:
    return None
  form = ('(' if ops[0] == '<' else '[') + (')' if ops[1] == '<' else ']')
  return name.text, _between(low, high, form)


def _without(node: Node) -> Solutions | None:
  r"""Of `x\ne 3`."""
  if node.form != '\\ne':
    return None
  name, value = node.items
  if not _is_variable(name):
    name, value = value, name
  if not _is_variable(name) or answers.is_name(value.text):
    return None
  low, high = answers.leaf(_LOW), answers.leaf(_HIGH)
  return name.text, _union(
    [_between(low, value, '()'), _between(value, high, '()')]
  )


def _is_variable(node: Node) -> bool:
  return answers.is_name(node.text) and not _NO_VARIABLE.search(node.text)


def _between(low: Node, high: Node, form: str) -> Node:
  text = f'{form[0]}{low.text},{high.text}{form[1]}'
  return Node(kind='tuple', text=text, items=(low, high), form=form)


def _union(sets: Sequence[Node]) -> Node:
  text = '\\cup'.join(s.text for s in sets)
  return Node(kind='union', text=text, items=tuple(sets))


def _shared(sets: Sequence[Node]) -> Node | None:
  """What a ray to the left and one to the right have in common."""
  if len(sets) != 2 or any(s.kind != 'tuple' for s in sets):
    return None
  right, left = sorted(sets, key=lambda s: s.items[0].text == _LOW)
  if left.items[0].text != _LOW or right.items[1].text != _HIGH:
    return None
  if right.items[0].text == _LOW or left.items[1].text == _HIGH:
    return None
  return _between(right.items[0], left.items[1], right.form[0] + left.form[1])


def _implied(sets: Sequence[Node]) -> str:
  """How a comma joins: 'or' of what is apart, 'and' of two rays that meet."""
  bounds = []
  for s in sets:
    low, high = _value(s.items[0].text), _value(s.items[-1].text)
    if low is None or high is None or low > high:
      return ''
    closed = (s.form or '[]')[0] == '[', (s.form or '[]')[1] == ']'
    bounds.append((low, high, closed))
  bounds.sort()
  if all(
    a[1] < b[0] or (a[1] == b[0] and not (a[2][1] or b[2][0]))
    for a, b in itertools.pairwise(bounds)
  ):
    return 'or'
  return 'and' if len(bounds) == 2 and bounds[1][0] < bounds[0][1] else ''


def _value(text: str) -> Fraction | float | None:
  if text in (_LOW, _HIGH):
    return math.inf if text == _HIGH else -math.inf
  try:
    value = rational.evaluate(text)
  except rational.TooLarge:
    return None
  return value if isinstance(value, Fraction) else None
