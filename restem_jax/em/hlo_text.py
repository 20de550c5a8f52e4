"""The text of an HLO module, taken apart.

In: what `as_text()` of a compiled or lowered program gives. Out: its
computations, their operations, and how often its loops run. What is *not*
here: what operations cost (`hlo`).
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Op:
  """One instruction.

  The attributes of a parameter or constant begin with what it has in
  parentheses: its number or its value.
  """

  name: str
  type: str
  code: str
  operands: tuple[str, ...]
  attributes: str

  def called(self, key: str) -> str | None:
    found = re.search(rf'\b{key}=%?([\w.\-]+)', self.attributes)
    return found[1] if found else None


_ITEM_SIZE = {'pred': 1, 's4': 0.5, 'u4': 0.5, 'token': 0, 'opaque': 0}
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](\{[^}]*\})?')


def arrays(kind: str) -> Iterator[tuple[float, tuple[int, ...], bool]]:
  """(bytes, dimensions, in main memory) of each array of a type."""
  for dtype, dims, layout in _ARRAY.findall(kind):
    shape = tuple(int(d) for d in dims.split(',') if d)
    bits = re.search(r'\d+', dtype)
    size = _ITEM_SIZE.get(dtype, int(bits[0]) / 8 if bits else 0)
    # S(n): another memory space, on TPUs the vector memory on the chip.
    yield size * math.prod(shape), shape, not re.search(r'S\([1-9]', layout)


def size_of(kind: str, memory_only: bool = False) -> float:
  """Bytes of all arrays of a type; with `memory_only` of those in memory."""
  return sum(size for size, _, main in arrays(kind) if main or not memory_only)


class Module:
  """The computations of a module by name, and which is its entry."""

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Op]] = {}
    self.entry = ''
    ops: dict[str, Op] = {}
    for line in text.splitlines():
      head = re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line)
      if head and ' = ' not in line.split('->')[0]:
        ops = self.computations[head[2]] = {}
        self.entry = head[2] if head[1] else self.entry
      elif op := _parse(line):
        ops[op.name] = op
    assert self.entry, 'no ENTRY: this is no HLO module'

  def trips(self, op: Op) -> int | None:
    """How often a loop runs that counts from 0 to a constant.

    Of several bounds (a decode loop also ends when no slot is active) it is
    the smallest that a counter is compared with.
    """
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', op.attributes)
    if known:
      return int(known[1])
    ops = self._flat(op.called('condition') or '')
    name = op.called('body') or ''
    body, root = self._flat(name), list(self.computations[name].values())[-1]
    found = []
    for x in ops.values():
      if x.code == 'compare' and 'direction=LT' in x.attributes:
        counter, bound = (_behind(ops, name) for name in x.operands)
        if counter and bound and bound.code == 'constant':
          step = _step(body, root.operands[_index(counter)])
          found.append(math.ceil(number(bound) / step))
    return min(found) if found else None

  def _flat(self, computation: str) -> dict[str, Op]:
    """A computation's operations and those of its fusions, parameters bound."""
    ops = dict(self.computations[computation])
    for x in list(ops.values()):
      if x.code != 'fusion' or not (name := x.called('calls')):
        continue
      inner = self.computations[name]
      for y in inner.values():
        if y.code == 'parameter':
          at = number(y)
          ops[y.name] = dataclasses.replace(
            y, code='bitcast', operands=(x.operands[at],)
          )
        else:
          ops[y.name] = y
      root = list(inner.values())[-1]
      if root.code != 'tuple':
        ops[x.name] = dataclasses.replace(
          x, code='bitcast', operands=(root.name,)
        )
    return ops


def number(op: Op) -> int:
  """What stands in the parentheses of a parameter or constant."""
  return int(re.findall(r'-?\d+', op.attributes)[0])


def _index(op: Op) -> int:
  found = re.search(r'index=(\d+)', op.attributes)
  return int(found[1]) if found else 0


def _behind(ops: Mapping[str, Op], name: str) -> Op | None:
  """The operation behind copies."""
  op = ops.get(name)
  while op and op.code in ('bitcast', 'copy', 'broadcast', 'convert'):
    op = ops.get(op.operands[0])
  return op


def _step(body: Mapping[str, Op], name: str) -> int:
  """What a loop's body adds to its counter: XLA unrolls some loops twice."""
  op, step = _behind(body, name), 0
  while op and op.code == 'add':
    sides = [_behind(body, name) for name in op.operands]
    constant = next((x for x in sides if x and x.code == 'constant'), None)
    if constant is None:
      break
    step += number(constant)
    op = next((x for x in sides if x is not constant), None)
  return step or 1


def _parse(line: str) -> Op | None:
  head = re.match(r'\s+(?:ROOT )?%?([\w.\-]+) = (.*)', line)
  if not head:
    return None
  name, rest = head.groups()
  end = _closing(rest) + 1 if rest.startswith('(') else rest.index(' ')
  kind, rest = rest[:end], rest[end:].lstrip()
  code, _, rest = rest.partition('(')
  end = _closing('(' + rest) - 1
  arguments, attributes = rest[:end], rest[end + 1 :]
  if code in ('parameter', 'constant'):
    return Op(name, kind, code, (), arguments + ')' + attributes)
  arguments = re.sub(r'/\*.*?\*/', '', arguments)
  # Some dialects write the operand's type before its name.
  operands = tuple(
    x.split()[-1].lstrip('%') for x in _split(arguments) if x.strip()
  )
  return Op(name, kind, code, operands, attributes)


def _closing(text: str) -> int:
  """Index of the parenthesis that closes the first one."""
  depth = 0
  for found in re.finditer(r'[()]', text):
    depth += 1 if found[0] == '(' else -1
    if not depth:
      return found.start()
  return len(text)


def _split(text: str) -> list[str]:
  """At commas outside brackets."""
  return re.split(r',\s*(?![^\[{(]*[\]})])', text)
