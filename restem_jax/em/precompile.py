"""What a recipe would need of a machine that is not here.

In: an architecture, the recipe's settings, a topology. Out: a `Report` per
program: memory per device, whether it fits, and estimates of time and MFU.
What is *not* here: which programs there are (`programs`), chips (`hardware`),
and costs from a program's text (`hlo`).

Compiling is real, so memory is what the compiler allocates. Time is an
estimate: the compiler's own cycles per operation, added up over all trips of
all loops, and bytes over bandwidth for what it gives no cycles for and for
collectives. Nothing is loaded: arrays are shapes and shardings.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import logging
import math
import re
import time
from typing import TYPE_CHECKING

import jax
from jax.experimental.compilation_cache import compilation_cache

from restem_jax.em import hardware, hlo, policy, programs
from restem_jax.em.generate import Sampling
from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Model
from restem_jax.partitioning import MeshShape
from restem_jax.training.trainer import Trainer
from restem_jax.weights import load

if TYPE_CHECKING:
  from restem_jax.em.loop import System

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """What of a recipe decides what is compiled."""

  config: ModelConfig
  trainer: Trainer
  sampling: Sampling
  mesh: MeshShape | None = None
  max_prompt_len: int = 1024  # tokens
  max_new_tokens: int = 512  # tokens
  dtype: str = 'auto'

  @property
  def row_len(self) -> int:
    """Tokens of a packed row: the trainer's, or the longest example's."""
    if self.trainer.row_len is not None:
      return self.trainer.row_len
    return 128 * math.ceil((self.max_prompt_len + self.max_new_tokens) / 128)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Of one program on one topology. Bytes and FLOPs are per device and run."""

  program: str
  mesh: str
  fits: bool
  used: float  # bytes, all of it
  available: float | None  # bytes; None: of this device it is not known
  held: dict[str, float]  # bytes of arguments, by what they are
  temp: float | None  # bytes: activations, gradients, workspace; None: too much
  tokens: int  # of all devices
  model_flops: float
  cost: hlo.Cost | None
  seconds: float | None  # estimate of one run
  mfu: float | None  # model_flops / (seconds * peak)
  compile_seconds: float
  advice: str  # what to change if it doesn't fit


def check(
  setup: Setup, target: hardware.Target, *, train: bool = True
) -> Iterator[Report]:
  """Compiles train step, prefill and decode, and reports on each.

  Args:
    setup: what to compile.
    target: for what.
    train: whether the train step is among it.

  Raises:
    ValueError: the mesh can't be, the rows do not divide over it, or there is
      no such dtype.
  """
  dtype = policy.compute_dtype(setup.dtype, target.devices[0].platform)
  model = Model(setup.config, dtype)
  if train:
    yield _report(_train_program(model, setup, target), setup, target)
  for program in programs.sampling(
    model,
    setup.sampling,
    max_prompt_len=setup.max_prompt_len,
    max_new_tokens=setup.max_new_tokens,
    mesh=sampling_mesh(setup.config, target),
  ):
    yield _report(program, setup, target)


def _train_program(
  model: Model, setup: Setup, target: hardware.Target
) -> programs.Program:
  mesh = (setup.mesh or MeshShape()).make(target.devices)
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  rows = setup.trainer.batch_size // setup.trainer.num_microbatches
  if rows % shards:
    raise ValueError(
      f'{rows} rows of a microbatch (Trainer.batch_size / num_microbatches) do '
      f'not divide over {shards} devices (mesh data x fsdp); write '
      f'--gin.trainer.Trainer.batch_size='
      f'{shards * setup.trainer.num_microbatches} or a multiple of it'
    )
  return programs.train(model, setup.trainer, setup.row_len, mesh)


def setup_of(system: 'System') -> Setup:
  """What a System's programs depend on; reads no tensor."""
  if system.architecture and system.architecture[0] == system.weights:
    config = system.architecture[1]
    _log.info('architecture: the recipe has that of %s', system.weights)
  else:
    config = load.open_weights(system.weights).config
    _log.info('architecture: from %s', system.weights)
  return Setup(
    config=config,
    trainer=system.trainer,
    sampling=system.sampling,
    mesh=system.mesh,
    max_prompt_len=system.task.max_prompt_len,
    max_new_tokens=system.task.max_new_tokens,
    dtype=system.dtype,
  )


def run(system: 'System') -> None:
  """The run mode: prints a report for each program.

  Raises:
    ValueError: the topology or the mesh can't be.
  """
  target = hardware.target(system.topology)
  setup = setup_of(system)
  print(
    f'{setup.config.num_params / 1e9:.2f} billion parameters on {target.name}, '
    f'{len(target.devices)} devices; rows of {setup.row_len} tokens'
  )
  for report in check(setup, target):
    print(text_of(report), flush=True)


def sampling_mesh(config: ModelConfig, target: hardware.Target):
  """Of one host's devices: as many of them share the heads as can."""
  devices = target.host().devices
  tensor = math.gcd(len(devices), config.num_kv_heads)
  return MeshShape(tensor=tensor).make(devices)


def _report(
  program: programs.Program, setup: Setup, target: hardware.Target
) -> Report:
  chip = target.chip
  mesh = ', '.join(f'{k}={v}' for k, v in program.mesh.shape.items())
  _log.info('compiling %s for %s (%s)', program.name, target.name, mesh)
  start = time.monotonic()
  used, temp, cost, seconds = 0.0, None, None, None
  available = chip.hbm if chip else None
  try:
    with _uncached():
      compiled = program.lowered.compile()
  except jax.errors.JaxRuntimeError as e:
    if found := _OUT_OF_MEMORY.search(str(e)):
      used, available = (_bytes(found[i]) for i in (1, 2))
    elif found := _TEMPORARIES.search(str(e)):
      temp, available = (_bytes(found[i]) for i in (1, 2))
      used = temp + sum(program.held.values())
    elif found := _SCALARS.search(str(e)):
      raise ValueError(
        f'{program.name} for {target.name}: the tables of attention, one for '
        f"each row and head, take {found[1]} of a chip's {found[2]} of scalar "
        'memory; lower Trainer.batch_size or raise Trainer.num_microbatches'
      ) from None
    else:
      raise
    fits = False
  else:
    memory = compiled.memory_analysis()
    assert memory is not None
    temp = memory.temp_size_in_bytes
    used = (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      - memory.alias_size_in_bytes
      + temp
      + memory.generated_code_size_in_bytes
    )
    fits = available is None or used <= available
    cost, seconds = _cost(program, compiled, chip)
  model_flops = program.model_flops / program.mesh.size
  return Report(
    program=program.name,
    mesh=mesh,
    fits=fits,
    used=used,
    available=available,
    held=dict(program.held),
    temp=temp,
    tokens=program.tokens,
    model_flops=model_flops,
    cost=cost,
    seconds=seconds,
    mfu=model_flops / (seconds * chip.peak) if chip and seconds else None,
    compile_seconds=time.monotonic() - start,
    advice='' if fits else advice(program, setup, used, available or 0.0),
  )


# What the TPU's compiler says: "Used 20.30G of 15.75G hbm", or, before it comes
# to arguments, "… for HLO temporaries (30.59G) exceeds available HBM (15.75G)".
_OUT_OF_MEMORY = re.compile(r'Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm')
_TEMPORARIES = re.compile(
  r'temporaries \(([\d.]+[KMGT]?)\) exceeds available HBM \(([\d.]+[KMGT]?)\)'
)
_SCALARS = re.compile(r'Used ([\d.]+[KM]) of ([\d.]+[KM]) smem')


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
  """Turns the persistent cache of programs off.

  What was compiled for devices that are not here can't be read back from it.
  """
  before = jax.config.jax_enable_compilation_cache  # pyright: ignore
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()  # it remembers whether it was on
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    compilation_cache.reset_cache()


def _bytes(text: str) -> float:
  unit = 'KMGT'.find(text[-1]) + 1
  return float(text.rstrip('KMGT')) * 1024**unit


def _cost(
  program: programs.Program,
  compiled: jax.stages.Compiled,
  chip: hardware.Chip | None,
) -> tuple[hlo.Cost, float | None]:
  """Costs per device, and the estimated seconds of one run."""
  text = compiled.as_text() or ''
  if chip is None or chip.clock is None:
    # Backends but the TPU's hide matmuls in calls of libraries: count what
    # was asked for instead, and know no time but the peak's.
    asked = hlo.cost(program.lowered.as_text('hlo'))
    asked = hlo.Cost(
      flops=asked.flops / program.mesh.size, unknown_loops=asked.unknown_loops
    )
    return asked, asked.flops / chip.peak if chip else None
  cost = hlo.cost(text, chip.kernels)
  seconds = time_of(cost, chip)
  return cost, seconds


def time_of(cost: hlo.Cost, chip: hardware.Chip) -> float:
  """Seconds: the slowest of computing, memory and wires, if they overlap.

  Collectives that the device waits for come on top. They go along one mesh
  axis, which is a ring with both directions in use.
  """
  assert chip.clock is not None
  computing = cost.cycles / chip.clock + cost.uncosted_bytes / chip.hbm_rate
  computing += cost.kernel_flops / chip.peak
  wires = cost.async_wire_bytes / chip.wire_rate
  waiting = cost.sync_wire_bytes / chip.wire_rate
  return max(computing, wires) + waiting


def advice(
  program: programs.Program, setup: Setup, used: float, available: float
) -> str:
  """What to change first so that it fits."""
  mesh, held = program.mesh.shape, sum(program.held.values())
  if program.name != 'train step':
    weights = program.held['weights']
    if weights > 0.8 * available:
      return (
        f'the weights alone are {gib(weights)} per device: sample with more '
        'devices on the tensor axis'
      )
    # All but the weights grows with the slots, or with the prompts.
    room = 0.9 * (available - weights) / (used - weights)
    if 'cache' not in program.held:
      tokens = setup.sampling.prefill_tokens
      return (
        'write --gin.generate.Sampling.prefill_tokens='
        f'{max(128, int(tokens * room))}'
      )
    slots = max(1, int(setup.sampling.num_slots * room))
    return f'write --gin.generate.Sampling.num_slots={slots}'
  gradients = program.held.get('adapters', program.held['weights'])
  if held + gradients > 0.9 * available:
    if mesh['data'] > 1:
      return (
        f'weights, optimizer and gradients alone are {gib(held + gradients)} '
        'per device: split them over all, MeshShape.data=1 and fsdp=-1'
      )
    return (
      f'weights, optimizer and gradients alone are {gib(held + gradients)} '
      'per device: take more chips, or optax.adafactor'
      + ('' if setup.trainer.lora else ', or --gin_file=training/lora.gin')
    )
  trainer, shards = setup.trainer, mesh['data'] * mesh['fsdp']
  if trainer.remat != 'full':
    return 'write --gin.trainer.Trainer.remat="\'full\'"'
  rows = trainer.batch_size // trainer.num_microbatches
  if rows > shards:
    more = trainer.num_microbatches * 2
    return f'write --gin.trainer.Trainer.num_microbatches={more}'
  if mesh['data'] > 1:
    return 'write --gin.partitioning.MeshShape.data=1 and fsdp=-1'
  return (
    f'write MeshShape.tensor={2 * mesh["tensor"]} and halve the rows, or a '
    f'row_len below {setup.row_len}'
  )


def gib(size: float) -> str:
  """'1.50 GiB'."""
  return f'{size / 2**30:.2f} GiB'


def text_of(report: Report) -> str:
  """A report as a few lines for people."""
  r = report
  room = 'of an unknown amount'
  if r.available is not None:
    over = r.used - r.available
    room = f'of {gib(r.available)}: ' + (
      'fits' if r.fits else f'does NOT fit, by {gib(over)}'
    )
  parts = [f'{name} {gib(size)}' for name, size in r.held.items()]
  if r.temp is not None:
    parts.append(f'activations and other temporaries {gib(r.temp)}')
  lines = [
    f'{r.program} ({r.mesh}; compiled in {r.compile_seconds:.0f} s)',
    f'  memory per device: {gib(r.used)} {room}',
    f'    {", ".join(parts)}',
  ]
  if r.cost is not None:
    lines.append(
      f'  per device and run: {r.cost.flops:.3g} FLOPs '
      f'({r.model_flops:.3g} without recomputation)'
      + (f', {r.cost.bytes:.3g} bytes of memory' if r.cost.bytes else '')
    )
    if r.cost.unknown_loops:
      lines.append(
        f'    {r.cost.unknown_loops:.0f} loops of unknown length counted once'
      )
  if r.seconds and r.mfu is not None:
    lines.append(
      f'  estimate: {r.seconds * 1e3:.1f} ms, {r.tokens / r.seconds:,.0f} '
      f'tokens/s, MFU {r.mfu:.1%}'
    )
  if r.advice:
    lines.append(f'  to make it fit: {r.advice}')
  return '\n'.join(lines)
