#!/usr/bin/env python3
"""How fast decode steps are on an accelerator: one JSON line per figure.

  python tools/bench_decoding.py [--figures=w4_step_ms,...] [--dtype=auto]
    [--model=llama3_1b] [--slots=256] [--prefix=512] [--new=512]
    [--steps_per_call=8] [--torch_python=…]

W4: the shape of Llama-3.2-1B, random weights, 256 slots, a shared prefix of 512
tokens, 32 more of 8 questions, 512 new tokens, no early stop; T 0.7, top-k 40.
Compiling is excluded, prefill is not; best of 2.

  w4_tokens_per_s       sampled tokens per second
  w4_step_ms            a decode step of all slots
  w4_share_of_limit     the larger of bytes over bandwidth and FLOPs over the
                        rate of a matmul, both measured on this device in the
                        same run, over the time. Bytes: all weights, once a
                        step; keys and values of the prefix, once; of each
                        slot's own tokens. FLOPs: 2 per weight and slot; 4 * H *
                        head_dim per layer, slot and token that is seen
  w4_over_transformers  over `transformers` generate, bf16, on the same device
                        (the extra [parity], here or in --torch_python), of
                        its first 128 tokens
"""

import argparse
import os
import pathlib
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# `transformers` wants room on the same device.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import bench_peer
import bench_row
import bench_shapes
import jax
import jax.numpy as jnp
import numpy as np

from restem_jax.em import policy as policy_lib
from restem_jax.models import kernels
from restem_jax.models.transformer import Model
from restem_jax.sampling import engine as engine_lib, stops
from restem_jax.sampling.policies import Policy

OWN, QUESTIONS, PEER_NEW = 32, 8, 128
PAPER = Policy(temperature=0.7, top_k=40)


def timed(fn, *args) -> float:
  """Seconds of a jitted function, compiling excluded: the best of 10."""
  jitted, times = jax.jit(fn), []
  jax.block_until_ready(jitted(*args))
  for _ in range(10):
    start = time.perf_counter()
    jax.block_until_ready(jitted(*args))
    times.append(time.perf_counter() - start)
  return min(times)


def bandwidth(mib: int) -> float:
  """Bytes per second, read and written, of a large array."""
  x = jnp.ones((mib * 2**20 // 4,), jnp.float32)
  return 2 * x.nbytes / timed(lambda x: x + 1, x)


def matmul_rate(size: int, dtype: Any) -> float:
  """FLOP/s of a product of random square matrices."""
  keys = jax.random.split(jax.random.key(0))
  x, y = (jax.random.normal(k, (size, size), dtype) for k in keys)
  return 2 * size**3 / timed(jnp.matmul, x, y)


def prompts(args: argparse.Namespace) -> list[list[int]]:
  """One per question; all begin alike."""
  rng = np.random.default_rng(1)
  vocab = bench_shapes.MODELS[args.model].vocab_size
  draw = lambda n: rng.integers(1, vocab, n).tolist()
  prefix = draw(args.prefix)
  return [prefix + draw(OWN) for _ in range(QUESTIONS)]


def seconds(args: argparse.Namespace, model: Model) -> float:
  """Of all rollouts, prefill included."""
  given = prompts(args)
  engine = engine_lib.Engine(
    model,
    stops.build([b'x'] * model.config.vocab_size),
    max_prompt_len=OWN,
    max_new_tokens=args.new,
    prefixes=[given[0][: args.prefix]],
    num_slots=args.slots,
    steps_per_call=args.steps_per_call,
    decode_attention=kernels.choose_decoding(
      'auto',
      platform=jax.default_backend(),
      dtype=model.dtype,
      kv_dtype=model.dtype,
    ),
  )
  engine.programs.compile()
  params = engine.prepare(jax.jit(model.init)(jax.random.key(0)))
  requests = [
    engine_lib.Request(
      problem_id=f'p{i}',
      prompt_ids=ids,
      indices=range(args.slots // QUESTIONS),
    )
    for i, ids in enumerate(given)
  ]
  times = []
  for seed in range(3):  # the first one touches new memory
    start = time.perf_counter()
    rollouts = engine.sample(params, requests, PAPER, seed=seed)
    num_tokens = sum(len(r.token_ids) for r in rollouts)
    times.append(time.perf_counter() - start)
    assert num_tokens == args.slots * args.new
  return min(times[1:])


def limit(args: argparse.Namespace, model: Model) -> dict[str, float]:
  """Seconds of all steps by bytes and by FLOPs, and what they follow from."""
  c, size = model.config, jnp.dtype(model.dtype).itemsize
  own = args.slots * sum(OWN + i for i in range(args.new))
  per_token = 2 * size * c.num_layers * c.num_kv_heads * c.head_dim
  bytes_moved = args.new * (size * c.num_params + per_token * args.prefix)
  bytes_moved += own * per_token
  seen = own + args.slots * args.prefix * args.new
  flops = 2.0 * c.num_params * args.slots * args.new
  flops += 4.0 * c.num_layers * c.num_heads * c.head_dim * seen
  on_cpu = jax.default_backend() == 'cpu'
  rates = {
    'bytes_per_s': bandwidth(64 if on_cpu else 2048),
    'flops_per_s': matmul_rate(1024 if on_cpu else 8192, model.dtype),
  }
  by = {
    'by_bytes': bytes_moved / rates['bytes_per_s'],
    'by_flops': flops / rates['flops_per_s'],
  }
  return by | rates


def over_transformers(args: argparse.Namespace, rate: float) -> float:
  """Our tokens per second over those of `transformers`."""
  asked = {
    'config': bench_shapes.llama_config(bench_shapes.MODELS[args.model]),
    'prompts': prompts(args),
    'samples': args.slots // QUESTIONS,
    'new': min(args.new, PEER_NEW),
  }
  row = bench_peer.ask(args.torch_python, 'bench_sampling_torch.py', asked)
  return rate / row['tokens_per_s']


UNITS = {
  'w4_tokens_per_s': '1/s',
  'w4_step_ms': 'ms',
  'w4_share_of_limit': 'ratio',
  'w4_over_transformers': 'ratio',
}


def main() -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--figures', default=','.join(UNITS))
  parser.add_argument(
    '--model', default='llama3_1b', choices=bench_shapes.MODELS
  )
  parser.add_argument('--dtype', default='auto')
  parser.add_argument('--slots', type=int, default=256)
  parser.add_argument('--prefix', type=int, default=512)
  parser.add_argument('--new', type=int, default=512)
  parser.add_argument('--steps_per_call', type=int, default=8)
  parser.add_argument('--torch_python', default=sys.executable)
  args = parser.parse_args()
  figures = args.figures.split(',')
  if unknown := set(figures) - set(UNITS):
    parser.error(f'no figure {sorted(unknown)}; write some of {sorted(UNITS)}')
  if args.slots % QUESTIONS:
    parser.error(f'--slots={args.slots}: write a multiple of {QUESTIONS}')
  model = Model(
    bench_shapes.MODELS[args.model], policy_lib.compute_dtype(args.dtype)
  )
  taken = seconds(args, model)
  rate = args.slots * args.new / taken

  def show(figure: str, value: float, **more: Any) -> None:
    workload = (
      f'{args.model}, random weights, {model.dtype}, {args.slots} slots, prefix '
      f'of {args.prefix}, {args.new} new tokens'
    )
    bench_row.show(figure, value, UNITS[figure], workload, **more)

  if 'w4_tokens_per_s' in figures:
    show('w4_tokens_per_s', rate)
  if 'w4_step_ms' in figures:
    show('w4_step_ms', 1e3 * taken / args.new)
  if 'w4_share_of_limit' in figures:
    found = limit(args, model)
    share = max(found['by_bytes'], found['by_flops']) / taken
    show('w4_share_of_limit', share, **found)
  if 'w4_over_transformers' in figures:
    show('w4_over_transformers', over_transformers(args, rate))


if __name__ == '__main__':
  main()
