#!/usr/bin/env python3
"""At what share of the peak splash attention's kernels run, by the compiler.

  JAX_PLATFORMS=cpu python tools/kernel_cycles.py v5e v5p v6e v4
    [--size=512] [--head_dim=128]

XLA gives a Pallas kernel neither FLOPs nor cycles, so it is compiled for a TPU
that need not be here, and the bundles of instructions are counted that the
compiler schedules for a step of its grid: one block of queries with one of
keys, one bundle a cycle. A bound from below for the time: memory that is
waited for is not in it. Prints a JSON line per chip and kernel. The shares for
blocks of 512 are those of `em/hardware.py`.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

_GRIDS = {'v4': '2x2x1', 'v5e': '2x2', 'v5p': '2x2x1', 'v6e': '2x2'}
_MATMULS = {'fwd': 2, 'dq': 3, 'dkv': 4}
# These have two cores per chip, and the gradients' kernels use one of them:
# their grids are 'arbitrary', where the forward pass shares out its heads.
_CORES = {'v4': 2, 'v5p': 2}


def compile_kernels(chip: str, size: int, head_dim: int) -> None:
  """Compiles forward and backward pass of two heads."""
  import jax
  import jax.numpy as jnp

  from restem_jax.em import hardware
  from restem_jax.models.cache import KV
  from restem_jax.models.splash import Splash

  device = hardware.target(f'{chip}:{_GRIDS[chip]}').devices[0]
  placed = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(
    shape, dtype, sharding=jax.sharding.SingleDeviceSharding(device)
  )
  t = 2 * size

  def run(q, k, v, mask, out):
    kernel = Splash.of(mask, interpret=False, largest=size)
    attend = lambda q, k, v: kernel.attend(q, KV(k, v), 1.0, None)
    result, backward = jax.vjp(attend, q, k, v)
    return result, backward(out)

  q, k = placed(1, 1, 2, t, head_dim), placed(1, 1, t, head_dim)
  mask = placed(1, t, t, dtype=jnp.bool_)
  jax.jit(run).lower(q, k, k, mask, q).compile()


def bundles(folder: pathlib.Path) -> dict[str, int]:
  """Bundles of each kernel: what a step of its grid schedules, all told."""
  out = {}
  for phase in _MATMULS:
    (path,) = folder.glob(
      f'*-splash_mha_{phase}_*schedule-analysis_final_bundles.txt'
    )
    with path.open(encoding='utf-8') as f:
      found = re.search(r'total scheduled bundles: +(\d+)', f.read(400))
    assert found, path
    out[phase] = int(found[1])
  return out


def main() -> None:
  """Parses the flags, compiles in a process per chip, prints."""
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('chips', nargs='+', choices=_GRIDS)
  parser.add_argument('--size', type=int, default=512)
  parser.add_argument('--head_dim', type=int, default=128)
  parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.child:
    compile_kernels(flags.chips[0], flags.size, flags.head_dim)
    return
  from restem_jax.em import hardware

  for name in flags.chips:
    with tempfile.TemporaryDirectory() as folder:
      arguments = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
      command = [sys.executable, __file__, name, '--child']
      command += [f'--size={flags.size}', f'--head_dim={flags.head_dim}']
      environment = os.environ | {'LIBTPU_INIT_ARGS': arguments}
      subprocess.run(command, env=environment, check=True)
      counted = bundles(pathlib.Path(folder))
    chip = hardware.CHIPS[name]
    assert chip.clock is not None
    for phase, cycles in counted.items():
      cores = _CORES.get(name, 1)
      flops = 2 * _MATMULS[phase] * flags.size**2 * flags.head_dim
      share = flops / (chip.peak / chip.clock / cores) / cycles
      line = {
        'figure': f'splash_{phase}_share_of_peak',
        'value': round(share / (1 if phase == 'fwd' else cores), 3),
        'unit': 'of the chip',
        'workload': f'block {flags.size}, head_dim {flags.head_dim}, '
        f'{cycles} bundles a step',
        'machine': f'{name}, compiled only',
      }
      print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
