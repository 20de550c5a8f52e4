"""Chips: memory, peaks and bandwidths, and the names of topologies.

In: a topology's name, or a device. Out: a `Chip`, and devices to compile for.
What is *not* here: programs, and what fits (`precompile`).
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import importlib.util
import os
import re
from typing import Any

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """What one device has. Rates are published peaks, of bf16 where it matters.

  Sources: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} for memory, FLOP/s and
  memory bandwidth; jax-ml.github.io/scaling-book/tpus for the bandwidth of a
  link; the H100 data sheet (SXM, dense). The clock is the peak over the
  FLOPs that the matrix units do in a cycle: 2 * 128**2 each, 2 * 256**2 from
  v6e on, 4 units on v5e and v6e, 8 on v4 and v5p.

  `kernels`: the share of the peak at which splash attention's kernels do a
  block of 512 x 512 tokens, by head_dim. From the bundles of instructions
  that the compiler schedules for it (tools/kernel_cycles.py), so memory that
  is waited for is not in it.
  """

  name: str
  hbm: float  # bytes
  peak: float  # FLOP/s
  hbm_rate: float  # bytes/s
  wire_rate: float  # bytes/s along one mesh axis, both directions together
  clock: float | None = None  # Hz of the compiler's cycles; None: it has none
  kernels: Mapping[int, Mapping[str, float]] = dataclasses.field(
    default_factory=dict
  )


_GIB = 2.0**30


def _shares(**by_phase: tuple[float, float, float]):
  """For head_dim 64, 128 and 256."""
  return {
    size: {phase: shares[i] for phase, shares in by_phase.items()}
    for i, size in enumerate((64, 128, 256))
  }


CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      name='v4',
      hbm=32 * _GIB,
      peak=275e12,
      hbm_rate=1228e9,
      wire_rate=2 * 45e9,
      clock=275e12 / (8 * 2 * 128**2),
      kernels=_shares(
        fwd=(0.169, 0.341, 0.459),
        dq=(0.156, 0.315, 0.382),
        dkv=(0.151, 0.309, 0.381),
      ),
    ),
    Chip(
      name='v5e',
      hbm=16 * _GIB,
      peak=197e12,
      hbm_rate=819e9,
      wire_rate=2 * 45e9,
      clock=197e12 / (4 * 2 * 128**2),
      kernels=_shares(
        fwd=(0.255, 0.513, 0.656),
        dq=(0.434, 0.853, 0.91),
        dkv=(0.432, 0.856, 0.899),
      ),
    ),
    Chip(
      name='v5p',
      hbm=95 * _GIB,
      peak=459e12,
      hbm_rate=2765e9,
      wire_rate=2 * 90e9,
      clock=459e12 / (8 * 2 * 128**2),
      kernels=_shares(
        fwd=(0.246, 0.486, 0.634),
        dq=(0.199, 0.408, 0.437),
        dkv=(0.201, 0.42, 0.456),
      ),
    ),
    Chip(
      name='v6e',
      hbm=32 * _GIB,
      peak=918e12,
      hbm_rate=1640e9,
      wire_rate=2 * 90e9,
      clock=918e12 / (4 * 2 * 256**2),
      kernels=_shares(
        fwd=(0.091, 0.185, 0.34),
        dq=(0.152, 0.296, 0.537),
        dkv=(0.158, 0.316, 0.558),
      ),
    ),
    Chip(
      name='h100',
      hbm=80e9,
      peak=989e12,
      hbm_rate=3350e9,
      wire_rate=900e9,
    ),
  )
}
_KINDS = (
  ('TPU v4', 'v4'),
  ('TPU v5 lite', 'v5e'),
  ('TPU v5e', 'v5e'),
  ('TPU v5', 'v5p'),
  ('TPU v6', 'v6e'),
  ('H100', 'h100'),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
  """What to compile for."""

  topology: str
  name: str  # for people
  devices: Sequence[Any]  # of jax.Device
  chip: Chip | None  # None: a device of which no peaks are known

  def host(self) -> 'Target':
    """One host of it: 4 chips of a TPU slice."""
    if self.topology == 'local':
      return dataclasses.replace(self, devices=jax.local_devices())
    # As its own topology: some of a slice's devices are no whole torus, and
    # the compiler wants one.
    name, _, grid = self.topology.partition(':')
    return target(f'{name}:2x2x1' if grid.count('x') == 2 else f'{name}:2x2')


def target(topology: str) -> Target:
  """The devices of a topology, without having them.

  Args:
    topology: 'v5e:4x4' and the like (chips along each axis; v4, v5e, v5p or
      v6e), or 'local' for the devices of this process.

  Raises:
    ValueError: the topology can't be, or libtpu is not installed.
  """
  if topology == 'local':
    devices = jax.devices()
    kind = devices[0].device_kind
    name = next((name for key, name in _KINDS if key in kind), None)
    return Target(
      topology=topology,
      name=f'local ({len(devices)} x {kind})',
      devices=devices,
      chip=CHIPS.get(name or ''),
    )
  found = re.fullmatch(r'(v4|v5e|v5p|v6e):\d+(x\d+){1,2}', topology)
  if not found:
    raise ValueError(
      f"TOPOLOGY={topology!r}; write 'local', or a chip and its grid, such as "
      "'v5e:4x4', 'v6e:4x4', 'v4:2x2x4' or 'v5p:4x4x8'"
    )
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(
      f"TOPOLOGY={topology!r} needs libtpu's compiler: pip install "
      "'restem_jax[tpu]', and set JAX_PLATFORMS=cpu on a box without a TPU"
    )
  # v4's chips run as one device, as they do in practice, if told so.
  options = {'chip_config_name': 'megacore'} if found[1] == 'v4' else {}
  from jax.experimental import topologies  # loads libtpu

  with _quiet():
    try:
      described = topologies.get_topology_desc(
        platform='tpu', topology_name=topology, **options
      )
    except jax.errors.JaxRuntimeError as e:
      reason = str(e).partition('\n')[0]
      raise ValueError(
        f'TOPOLOGY={topology!r}: libtpu says: {reason}; write a grid of whole '
        "hosts, such as 'v5e:4x4'"
      ) from None
  return Target(
    topology=topology,
    name=topology,
    devices=described.devices,
    chip=CHIPS[found[1]],
  )


@contextlib.contextmanager
def _quiet():
  """Keeps libtpu's words about the TPU that isn't here off the terminal."""
  # It asks the metadata server of a TPU VM first, and writes what it thinks
  # of the answer straight to file descriptor 2.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  if os.environ.get('JAX_PLATFORMS') == 'cpu':
    # Its lock keeps processes apart that drive a TPU; this one only compiles.
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  null = os.open(os.devnull, os.O_WRONLY)
  saved = os.dup(2)
  try:
    os.dup2(null, 2)
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)
    os.close(null)
