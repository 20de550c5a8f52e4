#!/usr/bin/env python3
"""How fast a train step is: one JSON line per figure.

  python tools/bench_training.py [--figures=train_tokens_per_s,...]
    [--model=smollm2_135m] [--dtype=auto] [--rows=2] [--row_len=1024]
    [--shots=316] [--answer=50] [--remat=dots] [--attention=auto]
    [--loss_chunk=0] [--no_scan] [--peer_python=python3]

SmolLM2-135M's shape (or, with --model=llama3_1b, that of Llama-3.2-1B), random
weights, the step that `Trainer` makes with AdamW and clipping as
gin/runs/em.gin has them, on rows of 1024 tokens (two, as in math.gin) packed from examples, by seed: 316 tokens of shots that all share and
questions of 60 to 140 (log-normal, median 75, sigma 0.2), as a run of code.gin
selected them; 1 to 10 answers each (uniform) of 8 to 300 tokens (log-normal,
median 50, sigma 0.7: between what code.gin and 8-shot GSM8K selected), which
the loss is of. --shots and --answer are for others: the longer the answers, the
less there is to share. One batch is timed: best of 2 steps (5 on a GPU or TPU),
compiling excluded.
Tokens are those of the examples, without padding, each prompt counted with each
of its answers: what training without shared prefixes has to read.

  train_tokens_per_s          of the batch's examples
  train_tokens_per_s_unshared with share_prefixes off
  train_share_of_limit        of the time that the step's matmuls alone take,
                              each measured by itself in the same run
  train_mfu                   their FLOPs over the peak of the chip
  train_over_torch            over the same examples in `transformers` and
                              torch's AdamW, padded, in the faster of its
                              dtypes (needs the extra [parity]); of CPUs
  train_over_torch_unshared   its examples per row as with share_prefixes off
  train_peak_over_computed    resident bytes (on a GPU or TPU: the device's) at
                              their peak over weights, moments, gradients,
                              activations and logits

FLOPs of the matmuls: 6 per weight of a layer and token of a row; 12 * T / 2 *
H * head_dim per token and layer for attention, of which only the causal half
counts; 6 per weight of the head and token that the loss is of. What is computed
a second time in the backward pass is not counted. No TensorFlow is loaded.
"""

import argparse
from collections.abc import Callable
import dataclasses
import functools
import gc
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import bench_memory
import bench_peer
import bench_row
import bench_shapes
import jax
import jax.numpy as jnp
import numpy as np
import optax

from restem_jax.em import hardware, policy as policy_lib
from restem_jax.models.transformer import Model
from restem_jax.records import Example
from restem_jax.training import losses, optimizers, step as step_lib
from restem_jax.training.trainer import Trainer

PROBLEMS = 64


def selection(num_shots: int, answer: int) -> list[Example]:
  """Examples as the docstring above has them."""
  rng = np.random.default_rng(0)

  def draw(n: int) -> tuple[int, ...]:
    return tuple(rng.integers(1, bench_shapes.SMOLLM2.vocab_size, n).tolist())

  def length(median: int, sigma: float, low: int, high: int) -> int:
    return int(np.clip(rng.lognormal(np.log(median), sigma), low, high))

  shots, examples = draw(num_shots), []
  for problem in range(PROBLEMS):
    prompt = shots + draw(length(75, 0.2, 60, 140))
    examples += [
      Example(
        id=f'p{problem}#{sample}',
        prompt_ids=prompt,
        target_ids=draw(length(answer, 0.7, 8, 300)),
        weight=1.0,
      )
      for sample in range(rng.integers(1, 11))
    ]
  return examples


class Bench:
  """What the figures share: a model, a trainer, batches."""

  def __init__(self, args: argparse.Namespace):
    self.model = Model(
      bench_shapes.MODELS[args.model], policy_lib.compute_dtype(args.dtype)
    )
    self.row_len = args.row_len
    self.chunk = args.loss_chunk or losses.default_chunk(jax.default_backend())
    self.trainer = Trainer(
      row_len=args.row_len,
      batch_size=args.rows,
      remat=args.remat,
      attention=args.attention,
      loss_chunk=args.loss_chunk or None,
      scan_layers=False if args.no_scan else None,
      optimizer=functools.partial(
        optax.adamw, weight_decay=0.0, mask=optimizers.matrices
      ),
    )
    self.optimizer = self.trainer.make_optimizer(100)
    self.examples = selection(args.shots, args.answer)

  def batch(self, share: bool) -> tuple[dict[str, Any], list[Example]]:
    """The first batch of an epoch, and whose tokens it has."""
    trainer = self.trainer
    trainer = dataclasses.replace(trainer, share_prefixes=share)
    feed = trainer.feed(self.examples, 1)
    batch = dict(next(feed.epoch(0)))
    used = np.unique(batch.pop('index'))
    return batch, [self.examples[i] for i in used if i >= 0]

  def state(self) -> step_lib.State:
    params = jax.jit(self.model.init)(jax.random.key(0))
    return step_lib.init_state(self.model, self.optimizer, params)

  def compiled(self, state: step_lib.State, batch: dict[str, Any]):
    step: Any = self.trainer.make_step(self.model, self.optimizer, self.row_len)
    return step.lower(state, batch).compile()

  @functools.cached_property
  def seconds(self) -> dict[bool, float]:
    """Of a step, with shared prefixes and without: the best."""
    state, seconds = self.state(), {}
    step = self.compiled(state, self.batch(True)[0])
    count = 2 if jax.default_backend() == 'cpu' else 5
    for share in (True, False):
      batch, times = self.batch(share)[0], []
      for _ in range(count + share):  # the first one touches new memory
        start = time.perf_counter()
        state, metrics = step(state, batch)
        assert np.isfinite(float(metrics['loss']))
        times.append(time.perf_counter() - start)
      seconds[share] = min(times[-count:])
    return seconds

  @functools.cached_property
  def limit(self) -> tuple[float, float]:
    """FLOPs of the matmuls of a step, and the seconds that they take alone."""
    flops = seconds = 0.0
    for count, size, fn, operands in matmuls(self):
      taken = best_of(fn, operands)
      flops += count * size
      seconds += count * taken
    return flops, seconds


def tokens_of(examples: list[Example]) -> int:
  """Of prompts and targets, each prompt as often as it is used."""
  return sum(len(e.prompt_ids) + len(e.target_ids) for e in examples)


def best_of(fn: Callable[..., Any], operands: tuple[Any, ...]) -> float:
  """Seconds of a jitted function, compiling excluded."""
  arrays = [jnp.ones(shape, dtype) for shape, dtype in operands]
  jitted = jax.jit(fn)
  jax.block_until_ready(jitted(*arrays))
  times = []
  for _ in range(5):
    start = time.perf_counter()
    jax.block_until_ready(jitted(*arrays))
    times.append(time.perf_counter() - start)
  return min(times)


def matmuls(bench: Bench):
  """(how often, FLOPs, function, operands) of each product of a step."""
  c, dtype = bench.model.config, bench.model.dtype
  f32, n = jnp.float32, c.num_layers
  rows = bench.trainer.batch_size * bench.row_len
  heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
  weights = [(c.embed_dim, heads, 1), (c.embed_dim, kv, 2)]
  weights += [(heads, c.embed_dim, 1), (c.embed_dim, c.mlp_dim, 2)]
  weights += [(c.mlp_dim, c.embed_dim, 1)]
  product = lambda x, y: x @ y
  for i, o, count in weights:
    size = 2.0 * rows * i * o
    # Forward, to the input, to the weight: operands as a CPU likes them.
    for m, k, last in ((rows, i, o), (rows, o, i), (i, rows, o)):
      yield n * count, size, product, (((m, k), dtype), ((k, last), dtype))
  # Attention is f32 on CPUs. The product of all pairs is timed, half of it
  # counts.
  wide = f32 if jax.default_backend() == 'cpu' else dtype
  lead, group = (
    (bench.trainer.batch_size, c.num_kv_heads),
    bench.row_len * heads // kv,
  )
  q = ((*lead, group, c.head_dim), wide)
  k = ((*lead, bench.row_len, c.head_dim), wide)
  pairs = ((*lead, group, bench.row_len), wide)
  size = 2.0 * rows * bench.row_len * heads
  for formula, operands in (
    ('bkmh,bksh->bkms', (q, k)),  # logits; gradient of the weights
    ('bkms,bksh->bkmh', (pairs, k)),  # values; gradient of queries
    ('bkmh,bkms->bkhs', (q, pairs)),  # gradients of keys and values
  ):
    yield 2 * n / 2, size, functools.partial(jnp.einsum, formula), operands
  targets = int((bench.batch(True)[0]['weights'] > 0).sum())
  t, d, v = bench.chunk, c.embed_dim, c.vocab_size
  size, chunks = 2.0 * t * d * v, targets / t
  to_f32 = functools.partial(jnp.matmul, preferred_element_type=f32)
  for m, k, last in ((t, d, v), (t, v, d), (v, t, d)):
    yield chunks, size, to_f32, (((m, k), dtype), ((k, last), dtype))


def over_torch(bench: Bench, python: str) -> float:
  """Seconds of `transformers` on the batch's examples, in its own process."""
  _, examples = bench.batch(True)
  asked = {
    'config': bench_shapes.llama_config(bench.model.config),
    'examples': [(e.prompt_ids, e.target_ids) for e in examples],
  }
  return bench_peer.ask(python, 'bench_training_torch.py', asked)['seconds']


def computed_bytes(bench: Bench) -> dict[str, float]:
  """What a step needs.

  Activations are what remat=dots keeps per token and layer: the residual
  stream, before and after attention, queries, keys, values, gate and up, and
  what the heads give with the logarithm of their sums (f32). A layer that is
  worked on counts once more, with as many gradients.
  """
  c, dtype = bench.model.config, bench.model.dtype
  num_bytes = jnp.dtype(dtype).itemsize
  rows = bench.trainer.batch_size * bench.row_len
  heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
  kept = 2 * c.embed_dim + 2 * heads + 2 * kv + 2 * c.mlp_dim
  per_token = num_bytes * kept + 4 * c.num_heads
  return {
    'weights': 4.0 * c.num_params,
    'optimizer': 8.0 * c.num_params,
    'gradients': 4.0 * c.num_params,
    'activations': rows * per_token * (c.num_layers + 2),
    'logits': 2 * 4.0 * bench.chunk * c.vocab_size,  # and their gradient
  }


def peak_over_computed(bench: Bench) -> float:
  """Of this process, whatever it held before the state left out."""
  batch, _ = bench.batch(True)
  state = jax.block_until_ready(bench.state())
  step = bench.compiled(state, batch)
  held = sum(x.nbytes for x in jax.tree.leaves(state))
  gc.collect()
  base = bench_memory.in_use() - held
  bench_memory.forget_peak()
  for _ in range(2):
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
  needed = computed_bytes(bench)
  peak = bench_memory.peak() - base
  print(json.dumps({'peak': peak} | needed), file=sys.stderr)
  return peak / sum(needed.values())


def in_process(args: argparse.Namespace) -> float:
  """The memory figure, in a process of its own."""
  command = [sys.executable, __file__, '--child']
  for name in ('model', 'dtype', 'rows', 'row_len', 'shots', 'answer', 'remat'):
    command.append(f'--{name}={getattr(args, name)}')
  command += [f'--attention={args.attention}']
  command += [f'--loss_chunk={args.loss_chunk}']
  command += ['--no_scan'] if args.no_scan else []
  out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
  return float(out.stdout)


UNITS = {
  'train_peak_over_computed': 'ratio',
  'train_tokens_per_s': '1/s',
  'train_tokens_per_s_unshared': '1/s',
  'train_share_of_limit': 'ratio',
  'train_mfu': 'ratio',
  'train_over_torch': 'ratio',
  'train_over_torch_unshared': 'ratio',
}


def main() -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--figures', default=','.join(UNITS))
  parser.add_argument(
    '--model', default='smollm2_135m', choices=bench_shapes.MODELS
  )
  parser.add_argument('--dtype', default='auto')
  parser.add_argument('--rows', type=int, default=2)
  parser.add_argument('--row_len', type=int, default=1024)
  parser.add_argument('--shots', type=int, default=316)
  parser.add_argument('--answer', type=int, default=50)
  parser.add_argument('--remat', default='dots')
  parser.add_argument('--attention', default='auto')
  parser.add_argument('--loss_chunk', type=int, default=0)
  parser.add_argument('--no_scan', action='store_true')
  parser.add_argument('--peer_python', default=sys.executable)
  parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  figures = args.figures.split(',')
  if unknown := set(figures) - set(UNITS):
    parser.error(f'no figure {sorted(unknown)}; write some of {sorted(UNITS)}')
  if args.remat != 'dots' and 'train_peak_over_computed' in figures:
    parser.error('the bytes of train_peak_over_computed are those of dots')
  over_torch_asked = any(figure.startswith('train_over') for figure in figures)
  if over_torch_asked and jax.default_backend() != 'cpu' and not args.child:
    parser.error('train_over_torch is of CPUs; leave it out of --figures')
  bench = Bench(args)
  if args.child:
    print(peak_over_computed(bench))
    return

  def show(figure: str, value: float | None, **more: Any) -> None:
    workload = (
      f'{args.model}, random weights, {args.rows} rows of {args.row_len}, '
      f'{args.shots} of shots, answers of {args.answer}, remat {args.remat}, '
      f'{policy_lib.compute_dtype(args.dtype)}'
    )
    bench_row.show(figure, value, UNITS[figure], workload, **more)

  # What wants the machine's memory for itself goes first.
  if 'train_peak_over_computed' in figures:
    show('train_peak_over_computed', in_process(args))
  rates = {}
  for share, figure in (
    (True, 'train_tokens_per_s'),
    (False, 'train_tokens_per_s_unshared'),
  ):
    if any(f != 'train_peak_over_computed' for f in figures):
      tokens = tokens_of(bench.batch(share)[1])
      rates[share] = tokens / bench.seconds[share]
      more = {'tokens': tokens, 'seconds': round(bench.seconds[share], 2)}
      if figure in figures:
        show(figure, rates[share], **more)
  if 'train_share_of_limit' in figures:
    flops, seconds = bench.limit
    show(
      'train_share_of_limit',
      seconds / bench.seconds[True],
      flops=flops,
      limit_flops_per_s=round(flops / seconds / 1e9) * 1e9,
    )
  if 'train_mfu' in figures:
    chip = hardware.target('local').chip
    formula = (
      '(6 P_layers B T + 6 L B T T H head_dim + 6 V D targets) / (s peak)'
    )
    if chip is None:
      reason = 'no peak of this device is known: see train_share_of_limit'
      show('train_mfu', None, formula=formula, reason=reason)
    else:
      flops, _ = bench.limit
      mfu = flops / (bench.seconds[True] * chip.peak)
      show('train_mfu', mfu, formula=formula, peak=chip.peak)
  if over_torch_asked:
    tokens = tokens_of(bench.batch(True)[1])
    rate = tokens / over_torch(bench, args.peer_python)
    for share, figure in (
      (True, 'train_over_torch'),
      (False, 'train_over_torch_unshared'),
    ):
      if figure in figures:
        show(figure, rates[share] / rate)


if __name__ == '__main__':
  main()
