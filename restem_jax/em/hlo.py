"""What a compiled program costs, from its text.

In: HLO text, as `jax.stages.Compiled.as_text()` or `Lowered.as_text('hlo')`
give it. Out: a `Cost` per run of the program and device. What is *not* here:
peaks and bandwidths (`hardware`), and what fits (`precompile`).

XLA's own cost analysis counts the body of a loop once, whatever its trips.
Here every loop's body (layers, microbatches, chunks of the vocabulary, decode
steps, the ring of a collective matmul) is counted as often as its condition
lets it run. A conditional counts as its most expensive branch.
"""

from collections.abc import Mapping
import dataclasses
import math
import re

from restem_jax.em.hlo_text import arrays, Module, Op, size_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """Sums over one run of a program on one device."""

  flops: float = 0.0  # of matmuls and convolutions
  bytes: float = 0.0  # read from and written to the device's memory
  cycles: float = 0.0  # the compiler's estimate, where it makes one (TPU)
  uncosted_bytes: float = 0.0  # of operations without such an estimate
  async_wire_bytes: float = 0.0  # sent while the device goes on computing
  sync_wire_bytes: float = 0.0  # sent while it waits
  unknown_loops: float = 0.0  # whose trips the text doesn't tell: counted once
  kernel_flops: float = 0.0  # what the peak would do in the time of kernels

  def __add__(self, other: 'Cost') -> 'Cost':
    a, b = dataclasses.astuple(self), dataclasses.astuple(other)
    return _cost([x + y for x, y in zip(a, b, strict=True)])

  def __mul__(self, times: float) -> 'Cost':
    return _cost([x * times for x in dataclasses.astuple(self)])


def _cost(values: list[float]) -> Cost:
  names = (field.name for field in dataclasses.fields(Cost))
  return Cost(**dict(zip(names, values, strict=True)))


Kernels = Mapping[int, Mapping[str, float]]


def cost(text: str, kernels: Kernels | None = None) -> Cost:
  """The cost of the entry computation of a module's text.

  Args:
    text: the module's.
    kernels: the share of the peak that attention kernels reach, by head_dim
      and phase: fwd, dq and dkv (`hardware.Chip`); needed if there are any.
  """
  return _Costs(text, kernels or {}).entry_cost()


_FREE = frozenset(
  {
    *('parameter', 'constant', 'iota', 'tuple', 'get-tuple-element'),
    *('bitcast', 'domain', 'opt-barrier', 'after-all', 'async-update'),
    *('partition-id', 'replica-id', 'send', 'recv'),
  }
)
# Custom calls that name or rename memory, and do nothing.
_NAMES = re.compile(
  r'custom_call_target="(AllocateBuffer|ConcatBitcast|Assume)'
)
# Splash attention, by its phase: how many matmuls of [T, S] it has. It is opaque
# to XLA, which gives it neither FLOPs nor cycles.
_KERNEL = re.compile(r'splash_mha_(fwd|dq|dkv)_')
_KERNEL_MATMULS = {'fwd': 2, 'dq': 3, 'dkv': 4}
_COLLECTIVES = frozenset(
  {
    *('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all'),
    *('ragged-all-to-all', 'collective-permute', 'collective-broadcast'),
  }
)


class _Costs:
  """Costs of a module's computations."""

  def __init__(self, text: str, kernels: Kernels):
    self._module = Module(text)
    self._kernels = kernels

  def entry_cost(self) -> Cost:
    return self._cost(self._module.entry)

  def _cost(self, computation: str) -> Cost:
    total = Cost()
    ops = self._module.computations[computation]
    for op in ops.values():
      total += self._op_cost(op, ops)
    return total

  def _op_cost(self, op: Op, ops: Mapping[str, Op]) -> Cost:
    if op.code == 'while':
      body, condition = op.called('body'), op.called('condition')
      assert body and condition, op
      trips = self._module.trips(op)
      once = self._cost(body) + self._cost(condition)
      if trips is None:
        return once + Cost(unknown_loops=1)
      return once * trips
    if op.code == 'conditional':
      found = re.search(r'branch_computations=\{([^}]*)\}', op.attributes)
      names = re.findall(r'[\w.\-]+', found[1]) if found else []
      names += [
        name
        for key in ('true_computation', 'false_computation')
        if (name := op.called(key))
      ]
      return max(
        (self._cost(name) for name in names),
        key=lambda c: (c.flops, c.cycles, c.bytes),
      )
    if op.code in ('call', 'async-start'):
      name = op.called('to_apply') or op.called('calls')
      return self._cost(name) if name else Cost()
    if op.code.removesuffix('-start') in _COLLECTIVES:
      return self._collective(op, ops)
    if op.code in _FREE or op.code.endswith('-done'):
      return Cost()
    if op.code == 'custom-call' and _NAMES.search(op.attributes):
      return Cost()
    if op.code == 'custom-call' and (found := _KERNEL.match(op.name)):
      return self._kernel(found[1], op, ops)
    inner = Cost()
    if op.code == 'fusion':
      name = op.called('calls')
      assert name, op
      if name.startswith('all-reduce-scatter'):
        # A reduce-scatter, as the TPU's compiler writes it: an all-reduce of
        # which each device keeps a slice. Nothing runs beside it.
        return self._collective(
          dataclasses.replace(op, code='reduce-scatter'), ops
        )
      inner = self._fused(name)
    flops = inner.flops + self._flops(op, ops)
    moved = self._bytes(op, ops)
    cycles = re.search(r'"estimated_cycles":"(\d+)"', op.attributes)
    # A copy-start runs beside the computation that needs it later.
    waits = not cycles and not op.code.endswith('-start')
    return Cost(
      flops=flops,
      bytes=moved,
      cycles=float(cycles[1]) if cycles else 0.0,
      uncosted_bytes=moved if waits else 0.0,
      async_wire_bytes=inner.async_wire_bytes,
    )

  def _fused(self, computation: str) -> Cost:
    """FLOPs inside a fusion; its one pass over memory is the fusion's."""
    ops = self._module.computations[computation]
    total = Cost()
    starts = any('AsyncCollectiveStart' in op.attributes for op in ops.values())
    for op in ops.values():
      total += Cost(flops=self._flops(op, ops))
      if op.code == 'fusion' and (name := op.called('calls')):
        total += self._fused(name)
      # The same collective stands in every fusion that it runs beside.
      if starts and op.code in _COLLECTIVES:
        wire = self._collective(op, ops)
        total += Cost(async_wire_bytes=wire.sync_wire_bytes)
    return total

  def _collective(self, op: Op, ops: Mapping[str, Op]) -> Cost:
    inputs = sum(size_of(ops[name].type) for name in op.operands if name in ops)
    # A start's type is a tuple of its operands and results.
    results = size_of(op.type)
    if op.code.endswith('-start'):
      results = max(results - inputs, inputs)
    kind = op.code.removesuffix('-start')
    wire = {
      'all-gather': results - inputs,
      'reduce-scatter': inputs - results,
      'all-reduce': 2 * inputs,
    }.get(kind, inputs)
    wire = max(wire, 0.0)
    if op.code.endswith('-start'):
      return Cost(async_wire_bytes=wire)
    return Cost(sync_wire_bytes=wire)

  def _kernel(self, phase: str, op: Op, ops: Mapping[str, Op]) -> Cost:
    """A kernel of attention, as if its mask were causal.

    Operands: three arrays of scalars, q `[heads, T, head_dim]`, k, ..., and
    last the mask's blocks `[., size, size]`. It skips blocks above the
    diagonal, and more where rows hold several examples: nobody knows yet.
    """
    shapes = [next(arrays(ops[name].type))[1] for name in op.operands]
    heads, tokens, head_dim = shapes[3]
    n = tokens // shapes[-1][-1]
    pairs = tokens * tokens * (n + 1) / (2 * n)
    flops = 2 * _KERNEL_MATMULS[phase] * heads * pairs * head_dim
    return Cost(
      flops=flops,
      bytes=self._bytes(op, ops),
      kernel_flops=flops / self._kernel_share(phase, head_dim),
    )

  def _kernel_share(self, phase: str, head_dim: int) -> float:
    """Heads of a size that was not measured take the next one's time."""
    sizes = [size for size in self._kernels if size >= head_dim]
    size = min(sizes, default=max(self._kernels))
    return self._kernels[size][phase] * min(1.0, head_dim / size)

  def _flops(self, op: Op, ops: Mapping[str, Op]) -> float:
    """2 per multiply-add; windows count the taps that hit no padding."""
    if op.code not in ('dot', 'convolution'):
      return 0.0
    (_, out, _), *_ = arrays(op.type)
    (_, left, _), *_ = arrays(ops[op.operands[0]].type)
    if op.code == 'dot':
      found = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', op.attributes)
      dims = [int(d) for d in found[1].split(',') if d] if found else []
      return 2.0 * math.prod(out) * math.prod(left[d] for d in dims)
    (_, right, _), *_ = arrays(ops[op.operands[1]].type)
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', op.attributes)
    assert labels, op
    lhs, rhs, result = labels.groups()
    taps = 1
    windows = _windows(op.attributes, sum(c.isdigit() for c in lhs))
    for i, window in enumerate(windows):
      digit = str(i)
      taps *= _valid_taps(
        left[lhs.index(digit)],
        right[rhs.index(digit)],
        out[result.index(digit)],
        window,
      )
    batch, features = out[result.index('b')], out[result.index('f')]
    groups = re.search(r'batch_group_count=(\d+)', op.attributes)
    batch /= int(groups[1]) if groups else 1
    return 2.0 * batch * features * right[rhs.index('i')] * taps

  def _bytes(self, op: Op, ops: Mapping[str, Op]) -> float:
    """Traffic with main memory; of what is sliced, only the slice."""
    inside: list[Op] = []
    written = size_of(op.type, memory_only=True)
    if op.code == 'fusion' and (name := op.called('calls')):
      inside = list(self._module.computations[name].values())
    if op.code.endswith('-start'):  # (destination, source, context)
      written /= 2
    slices = inside or [op]
    params = {}
    for x in inside:
      if x.code == 'parameter':
        params[x.name] = int(x.attributes.split(')')[0] or 0)
    read = 0.0
    for i, name in enumerate(op.operands):
      if name not in ops or not size_of(ops[name].type, memory_only=True):
        continue
      inner = next((p for p, at in params.items() if at == i), name)
      users = [x for x in slices if inner in x.operands]
      if users and all(_slices(x, inner) for x in users):
        read += sum(_moved(x, self._type_of(inside, ops)) for x in users)
        if any(x.code == 'dynamic-update-slice' for x in users):
          written -= min(written, size_of(ops[name].type))
      else:
        read += size_of(ops[name].type, memory_only=True)
    return read + written

  def _type_of(self, inside: list[Op], ops: Mapping[str, Op]):
    known = {x.name: x.type for x in inside}
    return lambda name: known.get(name) or ops[name].type


def _windows(attributes: str, num_dims: int) -> list[dict[str, list[int]]]:
  found = re.search(r'window=\{([^}]*)\}', attributes)
  fields = dict(f.split('=') for f in found[1].split()) if found else {}
  out = []
  for i in range(num_dims):
    window = {}
    for key, value in fields.items():
      window[key] = [int(v) for v in value.split('x')[i].split('_')]
    out.append(window)
  return out


def _valid_taps(size: int, taps: int, out: int, window) -> int:
  """(output, tap) pairs of one dimension that read a real input element."""
  stride = window.get('stride', [1])[0]
  low = window.get('pad', [0, 0])[0]
  base = window.get('lhs_dilate', [1])[0]
  dilate = window.get('rhs_dilate', [1])[0]
  count = 0
  for o in range(out):
    for k in range(taps):
      at = o * stride - low + k * dilate
      count += at >= 0 and at % base == 0 and at // base < size
  return count


def _slices(op: Op, operand: str) -> bool:
  """Whether an operation touches only a slice of the operand."""
  if op.code in ('dynamic-slice', 'gather', 'slice', 'dynamic-update-slice'):
    return op.operands[0] == operand
  return False


def _moved(op: Op, type_of) -> float:
  if op.code == 'dynamic-update-slice':
    return size_of(type_of(op.operands[1]))
  return size_of(op.type)
