#!/usr/bin/env python3
"""How fast the engine samples: one JSON line per figure.

  python tools/bench_sampling.py [--figures=w1_tokens_per_s,...]
    [--dtype=auto] [--weights=…] [--steps_per_call=8] [--torch_python=…]

W1: 8 questions x 8 samples, 683 prompt tokens of which 600 are shared, 64 new
tokens, no early stop, 64 slots; T 0.7, top-k 40; prefill included, compiling
excluded; best of 3. W2: 64 problems x 8, rollouts of 12 to 120 tokens (uniform,
by seed).

  w1_tokens_per_s          sampled tokens per second
  w1_over_transformers     over `transformers` generate, its faster dtype, in
                           the same run (needs the extra [parity], here or
                           in the environment of --torch_python)
  w1_share_of_limit        of the time that W1's matmuls alone take: the same
                           shapes, distinct weights, measured in the same run
  w2_utilisation           slots' steps that sampled a token, while a rollout
                           was waiting
  compilations_after_warmup  programs compiled in W1, then W2 with another T,
                           top-k, top-p, limits and number of samples
  w3_peak_over_computed    resident bytes in W1, at their peak, over the
                           computed weights, cache, prompts and logits
  million_growth_mib       by what the process grows from the 10,000th to the
                           1,000,000th rollout of a tiny network
  first_sample_s           from the start of a process to its first sample,
                           compiled programs in the cache

Without --weights the shape is SmolLM2-135M's and the weights are random. No
TensorFlow is loaded.
"""

import argparse
import functools
import gc
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import bench_memory
import bench_peer
import bench_row
import bench_shapes
import jax
import jax.numpy as jnp
import numpy as np

from restem_jax import environment, memory
from restem_jax.em import policy as policy_lib
from restem_jax.models import kernels, layers
from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Model
from restem_jax.sampling import engine as engine_lib, stops
from restem_jax.sampling.policies import Policy
from restem_jax.weights import cache, load

PREFIX, OWN, NEW, QUESTIONS, SAMPLES, SLOTS = 600, 83, 64, 8, 8, 64
PAPER = Policy(temperature=0.7, top_k=40)


class Bench:
  """What the figures share: a model, parameters, prompts."""

  def __init__(self, args: argparse.Namespace):
    self.args = args
    self.reader = load.open_weights(args.weights) if args.weights else None
    config = self.reader.config if self.reader else bench_shapes.SMOLLM2
    self.model = Model(config, policy_lib.compute_dtype(args.dtype))
    rng = np.random.default_rng(1)
    draw = lambda n: rng.integers(1, config.vocab_size, n).tolist()
    self.prefix = draw(PREFIX)
    self.prompts = [self.prefix + draw(OWN) for _ in range(64)]

  @functools.cached_property
  def params(self):
    if self.reader:
      return load.load_params(self.reader, self.model.abstract_params())
    rng = np.random.default_rng(0)
    return jax.tree.map(
      lambda s: jnp.asarray(0.02 * rng.standard_normal(s.shape, np.float32)),
      self.model.abstract_params(),
    )

  def engine(self, new: int = NEW) -> engine_lib.Engine:
    no_stops = stops.build([b'x'] * self.model.config.vocab_size)
    return engine_lib.Engine(
      self.model,
      no_stops,
      max_prompt_len=OWN,
      max_new_tokens=new,
      prefixes=[self.prefix],
      num_slots=SLOTS,
      steps_per_call=self.args.steps_per_call,
      decode_attention=kernels.choose_decoding(
        'auto',
        platform=jax.default_backend(),
        dtype=self.model.dtype,
        kv_dtype=self.model.dtype,
      ),
    )

  def w1(self, samples: int = SAMPLES) -> list[engine_lib.Request]:
    return [
      engine_lib.Request(
        problem_id=f'p{i}', prompt_ids=ids, indices=range(samples)
      )
      for i, ids in enumerate(self.prompts[:QUESTIONS])
    ]

  def w2(self) -> list[engine_lib.Request]:
    limits = np.random.default_rng(2).integers(12, 121, (64, 8)).tolist()
    return [
      engine_lib.Request(
        problem_id=f'p{i}',
        prompt_ids=ids,
        indices=(index,),
        max_new_tokens=limit,
      )
      for i, ids in enumerate(self.prompts)
      for index, limit in enumerate(limits[i])
    ]


def tokens_of(rollouts) -> int:
  """Tokens sampled, all rollouts together."""
  return sum(len(r.token_ids) for r in rollouts)


def w1_seconds(bench: Bench) -> float:
  """Best of three, all programs compiled."""
  engine = bench.engine()
  engine.programs.compile()
  params = engine.prepare(bench.params)
  best = float('inf')
  for seed in range(3):
    start = time.perf_counter()
    n = tokens_of(engine.sample(params, bench.w1(), PAPER, seed=seed))
    best = min(best, time.perf_counter() - start)
    assert n == QUESTIONS * SAMPLES * NEW
  return best


def limit_seconds(bench: Bench) -> float:
  """W1's matmuls by themselves, layer by layer, each with its own weights."""
  c, dtype = bench.model.config, bench.model.dtype
  params = bench.model.unstacked(bench.params)
  h, k, hd = c.num_heads, c.num_kv_heads, c.head_dim
  prefix = jnp.ones((k, PREFIX, hd), dtype)

  def dots(params, rows, head):
    x, out = jnp.ones((rows, c.embed_dim), dtype), jnp.float32(0)
    for layer in params['layers']:
      a, m = layer['attention'], layer['mlp']
      d = c.embed_dim
      for w in (a['q'], a['k'], a['v']):
        y = x @ w.reshape(d, -1)
        out += y[0, 0].astype(jnp.float32)
      q = jnp.ones((k, rows * h // k, hd), dtype) + out.astype(dtype)
      weights = layers.product('kmh,ksh->kms', q, prefix).astype(dtype)
      y = layers.product('kms,ksh->kmh', weights, prefix)
      x = y.reshape(rows, h * hd).astype(dtype) @ a['o'].reshape(h * hd, d)
      x = (x @ m['gate'] + x @ m['up']) @ m['down']
    if head:
      table = params['embed']['table']
      logits = jnp.einsum(
        'bd,vd->bv', x, table, preferred_element_type=jnp.float32
      )
      out += logits.max()
    return out + x.astype(jnp.float32).sum()

  def best(rows, head):
    program = jax.jit(dots, static_argnums=(1, 2))
    program(params, rows, head).block_until_ready()
    times = []
    for _ in range(5):
      start = time.perf_counter()
      program(params, rows, head).block_until_ready()
      times.append(time.perf_counter() - start)
    return min(times)

  prefill = best(PREFIX, False) + best(QUESTIONS * OWN, False)
  return NEW * best(SLOTS, True) + prefill


def over_transformers(bench: Bench, python: str, seconds: float) -> float:
  """Of `transformers` on W1, in a process of its own, over ours."""
  asked = {
    'config': bench_shapes.llama_config(bench_shapes.SMOLLM2),
    'prompts': bench.prompts[:QUESTIONS],
    'samples': SAMPLES,
    'new': NEW,
  }
  row = bench_peer.ask(python, 'bench_sampling_torch.py', asked)
  return row['seconds'] / seconds


def w2_utilisation(bench: Bench) -> float:
  """Of rollouts whose lengths spread 1:10."""
  engine = bench.engine(new=120)
  n = tokens_of(engine.sample(bench.params, bench.w2(), PAPER, seed=0))
  assert n == sum(r.max_new_tokens or 0 for r in bench.w2())
  return engine.stats.utilisation(SLOTS)


def compilations_after_warmup(bench: Bench) -> int:
  """Programs that W1 and W2 add to those of `Programs.compile`."""
  engine = bench.engine(new=120)
  engine.programs.compile()
  params = engine.prepare(bench.params)
  limit = {'max_new_tokens': 4}
  tokens_of(engine.sample(params, bench.w1(1), PAPER, seed=0, **limit))
  before = len(engine.programs)
  tokens_of(engine.sample(params, bench.w1(), PAPER, seed=0))
  other = Policy(temperature=1.0, top_k=200, top_p=0.95)
  tokens_of(engine.sample(params, bench.w2(), other, seed=1))
  tokens_of(engine.sample(params, bench.w1(3), Policy(temperature=0), seed=1))
  return len(engine.programs) - before


def w3_peak_over_computed(bench: Bench) -> float:
  """Of this process, whatever it held before the weights left out."""
  engine = bench.engine()
  engine.programs.compile()
  params = jax.block_until_ready(engine.prepare(bench.params))
  weights = engine.programs.num_bytes()['weights']
  bench.params = None
  gc.collect()
  # All that is there now, but the weights, is the interpreter and the library.
  base = bench_memory.in_use() - weights
  bench_memory.forget_peak()
  tokens_of(engine.sample(params, bench.w1(), PAPER, seed=0))
  return (bench_memory.peak() - base) / sum(
    engine.programs.num_bytes().values()
  )


def million_growth_mib() -> float:
  """Host memory: what has left the engine is not kept."""
  sizes = {'embed_dim': 8, 'mlp_dim': 8, 'head_dim': 8}
  heads = {'num_heads': 1, 'num_kv_heads': 1}
  model = Model(ModelConfig(vocab_size=64, num_layers=1, **sizes, **heads))
  engine = engine_lib.Engine(
    model,
    stops.build([b'x'] * 64),
    max_prompt_len=8,
    max_new_tokens=2,
    num_slots=512,
    steps_per_call=2,
  )
  requests = (
    engine_lib.Request(
      problem_id=f'p{i}', prompt_ids=[1, 2, i % 60], indices=range(32)
    )
    for i in range(1_000_000 // 32)
  )
  params, early, count = model.init(jax.random.key(0)), 0, 0
  for _ in engine.sample(params, requests, PAPER, seed=0):
    count += 1
    if count == 10_000:
      early = bench_memory.resident()
  assert count == 1_000_000
  return (bench_memory.resident() - early) / 2**20


def first_sample(bench: Bench) -> None:
  """Ends with the first rollout, of 8 tokens."""
  engine = bench.engine()
  with engine.programs.compiling():  # as `em.generate` does
    jax.block_until_ready(bench.params)
  next(engine.sample(bench.params, bench.w1(), PAPER, seed=0, max_new_tokens=8))


def in_process(args: argparse.Namespace, figure: str) -> float:
  """A figure that wants a process of its own."""
  command = [sys.executable, __file__, f'--child={figure}']
  command += [f'--dtype={args.dtype}', f'--weights={args.weights}']
  command += [f'--steps_per_call={args.steps_per_call}']
  start = time.perf_counter()
  out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
  if figure == 'first_sample_s':
    return time.perf_counter() - start
  return float(out.stdout)


def first_sample_s(args: argparse.Namespace) -> float:
  """The second of two runs that share a cache of compiled programs."""
  with tempfile.TemporaryDirectory() as folder:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = folder
    cold = in_process(args, 'first_sample_s')
    print(json.dumps({'first_sample_cold_s': round(cold, 2)}), file=sys.stderr)
    return in_process(args, 'first_sample_s')


UNITS = {
  'w1_tokens_per_s': '1/s',
  'w1_share_of_limit': 'ratio',
  'w1_over_transformers': 'ratio',
  'w2_utilisation': 'ratio',
  'compilations_after_warmup': 'programs',
  'w3_peak_over_computed': 'ratio',
  'million_growth_mib': 'MiB',
  'first_sample_s': 's',
}


def main() -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--figures', default=','.join(UNITS))
  parser.add_argument('--dtype', default='auto')
  parser.add_argument('--weights', default='')
  parser.add_argument('--steps_per_call', type=int, default=8)
  parser.add_argument('--torch_python', default=sys.executable)
  parser.add_argument('--child', help=argparse.SUPPRESS)
  args = parser.parse_args()
  memory.return_large_blocks()  # as main does
  if args.child == 'w3_peak_over_computed':
    print(w3_peak_over_computed(Bench(args)))
    return
  if args.child == 'first_sample_s':
    environment.use_compilation_cache(cache.root() / 'xla')
    first_sample(Bench(args))
    return
  figures = args.figures.split(',')
  if unknown := set(figures) - set(UNITS):
    parser.error(f'no figure {sorted(unknown)}; write some of {sorted(UNITS)}')

  weights = args.weights or 'SmolLM2-135M shape, random weights'
  ours = f'{weights}, {policy_lib.compute_dtype(args.dtype)}'

  def show(figure: str, value: float, workload: str = ours) -> None:
    bench_row.show(figure, value, UNITS[figure], workload)

  # What wants the machine's memory or start-up for itself goes first.
  if 'first_sample_s' in figures:
    show('first_sample_s', first_sample_s(args))
  if 'w3_peak_over_computed' in figures:
    figure = 'w3_peak_over_computed'
    show(figure, in_process(args, figure))
  if 'million_growth_mib' in figures:
    show('million_growth_mib', million_growth_mib(), 'a tiny network, float32')
  bench = Bench(args)
  if any(figure.startswith('w1') for figure in figures):
    seconds = w1_seconds(bench)
    if 'w1_tokens_per_s' in figures:
      show('w1_tokens_per_s', QUESTIONS * SAMPLES * NEW / seconds)
    if 'w1_share_of_limit' in figures:
      show('w1_share_of_limit', limit_seconds(bench) / seconds)
    if 'w1_over_transformers' in figures:
      show(
        'w1_over_transformers',
        over_transformers(bench, args.torch_python, seconds),
      )
  if 'w2_utilisation' in figures:
    show('w2_utilisation', w2_utilisation(bench))
  if 'compilations_after_warmup' in figures:
    show('compilations_after_warmup', compilations_after_warmup(bench))


if __name__ == '__main__':
  main()
