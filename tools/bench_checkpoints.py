#!/usr/bin/env python3
"""What saving costs the training loop: one JSON line per figure.

  python tools/bench_checkpoints.py [--figures=...] [--steps=40] [--every=20]

A Llama-shaped model of 25 M parameters trains with AdamW on packed rows of 512
tokens, and saves parameters and moments (12 bytes per parameter) every `every`
steps, as `Trainer.save_every` does. Steps that save and steps that don't run
in the same loop, in turn, so that other load on the machine hits both.

Figures:
  checkpoint_blocked_share  seconds inside `Checkpoints.save`, where the loop
                            stands still, per second of the loop
  checkpoint_stall_share    seconds by which the loop is longer than as many
                            steps in which nothing was being saved, per second
                            of those: what the background write costs as well
  checkpoint_bytes_per_s    bytes of a save / seconds until it is on disk
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from restem_jax import checkpoints as checkpoints_lib
from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Model
from restem_jax.training import step as step_lib

ROWS, ROW_LEN = 4, 512
CONFIG = ModelConfig(
  vocab_size=16384,
  num_layers=6,
  embed_dim=512,
  mlp_dim=1536,
  num_heads=8,
  num_kv_heads=4,
  head_dim=64,
)


def batch() -> dict[str, jax.Array]:
  """One packed batch `[ROWS, ROW_LEN]`: a segment a row, half of it targets."""
  rng = np.random.default_rng(0)
  shape = (ROWS, ROW_LEN)
  weights = np.zeros(shape, np.float32)
  weights[:, ROW_LEN // 2 :] = 1
  return {
    'tokens': jnp.asarray(rng.integers(0, CONFIG.vocab_size, shape), jnp.int32),
    'seen_until': jnp.full(shape, shape[1], jnp.int32),
    'positions': jnp.asarray(np.tile(np.arange(ROW_LEN), (ROWS, 1)), jnp.int32),
    'weights': jnp.asarray(weights),
  }


def measure(num_steps: int, every: int, folder: str) -> dict[str, float]:
  """The figures of one loop."""
  model = Model(CONFIG)
  optimizer = optax.adamw(1e-4)
  params = jax.jit(model.init)(jax.random.key(0))
  state = step_lib.init_state(model, optimizer, params)
  state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, state))
  train_step = step_lib.make_train_step(model, optimizer)
  data = batch()
  size = sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state)))
  for _ in range(2):
    state, metrics = train_step(state, data)
    float(metrics['loss'])
  checkpoints = checkpoints_lib.Checkpoints(folder)
  quiet, blocked, on_disk, total = [], [], [], 0.0
  for step in range(1, num_steps + 1):
    start = time.monotonic()
    state, metrics = train_step(state, data)
    float(metrics['loss'])
    if step % every == 0:
      begun = time.monotonic()
      checkpoints.save(step, state.params, state.opt_state, {}, None)
      blocked.append(time.monotonic() - begun)
    now = time.monotonic()
    total += now - start
    # Steps behind a save share the machine with it until it is on disk.
    saving = checkpoints.is_saving
    if blocked and len(on_disk) < len(blocked) and not saving:
      on_disk.append(now - begun)
    elif step % every and not saving:
      quiet.append(now - start)
  checkpoints.close()
  alone = statistics.median(quiet) * num_steps
  return {
    'checkpoint_blocked_share': sum(blocked) / total,
    'checkpoint_stall_share': total / alone - 1,
    'checkpoint_bytes_per_s': size / statistics.median(on_disk),
  }


def main() -> None:
  """Prints the figures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--figures', default='')
  parser.add_argument('--steps', type=int, default=40)
  parser.add_argument('--every', type=int, default=20)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    found = measure(args.steps, args.every, folder)
  for figure, value in found.items():
    if args.figures and figure not in args.figures.split(','):
      continue
    row = {
      'figure': figure,
      'value': round(value, 4),
      'unit': 'bytes/s' if figure.endswith('_per_s') else 'share',
      'workload': f'25M parameters, AdamW, {ROWS}x{ROW_LEN} tokens, a save '
      f'every {args.every} of {args.steps} steps',
      'machine': f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores, '
      f'{platform.machine()}, jax {jax.__version__}',
    }
    print(json.dumps(row), flush=True)


if __name__ == '__main__':
  main()
