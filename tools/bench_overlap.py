#!/usr/bin/env python3
"""Whether grading in the background holds up sampling: one JSON line.

  python tools/bench_overlap.py [--figures=overlap,overlap_hidden]

Figures (a small random model, the real engine, stages and files; the shortest
of a few runs each, without and with scoring in turn):
  overlap         wall time until the last sample is on disk, with scoring in
                  the background over without: 1 is not held up at all
  overlap_hidden  share of the graders' time that the run does not wait for

The grader waits, as for workers on other cores or a remote sandbox, for about
as long as sampling takes: what it costs the engine is then threads, files and
the interpreter's lock, and not a core that the machine lacks.

`bench_rewards.py` prints them too.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping
import json
import os
import pathlib
import platform
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from etils import epath

from restem_jax.records import Problem, Sample, Verdict
from restem_jax.rewards import base

NUM_PROBLEMS = 96
NUM_SAMPLES = 8
PER_SHARD = 8
NUM_PAIRS = 5
_NEW_TOKENS = 48


class _Waiting:
  """A grader that takes its time: no CPU, `seconds` per answer."""

  votes = True

  def __init__(self):
    self.seconds = 0.0
    self.waited = 0.0

  def grade(self, pairs: Iterable[tuple[Problem, str]]) -> Iterator[Verdict]:
    for _, text in pairs:
      start = time.perf_counter()
      time.sleep(self.seconds)
      self.waited += time.perf_counter() - start
      yield base.verdict('wrong', text[:20])

  def check_gold(self, problems: Iterable[Problem]) -> list:
    return []

  def equivalent(self, a: str, b: str) -> bool:
    return a == b

  def remember(self, path: str) -> None:
    pass

  def describe(self) -> Mapping[str, Any]:
    return {}

  def close(self) -> None:
    pass


def run() -> Iterator[Mapping[str, object]]:
  """Samples with and without scoring; yields the figures."""
  # Here, so that the figures of rewards alone need no jax.
  import jax

  from restem_jax.em import generate, score
  from restem_jax.models.config import ModelConfig
  from restem_jax.models.transformer import Model
  from restem_jax.sampling import engine as engine_lib, policies, stops

  config = ModelConfig(
    vocab_size=256,
    num_layers=4,
    embed_dim=128,
    mlp_dim=256,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
  )
  model = Model(config)
  params = model.init(jax.random.key(0))
  engine = engine_lib.Engine(
    model,
    stops.build([bytes([i]) for i in range(256)], eos_ids=[0]),
    max_prompt_len=16,
    max_new_tokens=_NEW_TOKENS,
    num_slots=32,
  )
  problems = [
    Problem(id=f'bench/{i}', question='', answer='')
    for i in range(NUM_PROBLEMS)
  ]
  policy = policies.Policy(temperature=1.0)

  class Sampler(generate.Sampler):
    """The engine behind prompts of 16 bytes; nothing is read from disk."""

    def __init__(self):
      self.sampling = generate.Sampling(problems_per_shard=PER_SHARD)

    def prompt_ids(
      self, problems: Iterable[Problem]
    ) -> dict[str, tuple[int, ...]]:
      return {p.id: tuple(p.id.rjust(16).encode()) for p in problems}

    def sample(self, params, problems, policy, **kwargs) -> Iterator[Sample]:
      num_samples = kwargs.pop('num_samples')
      requests = (
        engine_lib.Request(
          problem_id=i, prompt_ids=ids, indices=range(num_samples)
        )
        for i, ids in self.prompt_ids(problems).items()
      )
      for r in engine.sample(params, requests, policy, **kwargs):
        yield Sample(
          problem_id=r.problem_id,
          index=r.index,
          text=bytes(r.token_ids).decode('latin1'),
          token_ids=r.token_ids,
          logprobs=r.logprobs,
          finish='stop',  # none is `truncated`: all are graded
          **kwargs,
        )

  grader, sampler = _Waiting(), Sampler()

  def once(scored: bool) -> tuple[float, float]:
    """Seconds until all samples, and all verdicts, are on disk."""
    with tempfile.TemporaryDirectory() as folder:
      directory = epath.Path(folder)
      start = time.perf_counter()
      with score.in_background(directory, problems, grader) as written:
        generate.generate(
          directory,
          problems,
          sampler,
          lambda: params,
          policy,
          num_samples=NUM_SAMPLES,
          seed=0,
          iteration=1,
          what='bench',
          **({'written': written} if scored else {}),
        )
        sampled = time.perf_counter() - start
      done = time.perf_counter() - start
      num = len(list(directory.glob('verdicts-*.jsonl')))
      assert num == (NUM_PROBLEMS // PER_SHARD if scored else 0), num
      return sampled, done

  once(scored=False)  # compiles
  count = NUM_PROBLEMS * NUM_SAMPLES
  grader.seconds = 0.9 * once(scored=False)[0] / count
  alone, scored = [], []
  for _ in range(NUM_PAIRS):
    alone.append(once(scored=False)[0])
    grader.waited = 0.0
    sampled, done = once(scored=True)
    scored.append((sampled, done - sampled, grader.waited))
  # Other load only adds time, so the shortest runs say most.
  sampled, after, waited = min(scored)
  workload = (
    f'{count} samples of up to {_NEW_TOKENS} tokens in '
    f'{NUM_PROBLEMS // PER_SHARD} shards, {min(alone):.2f} s without scoring, '
    f'{waited:.2f} s of grading; best of {NUM_PAIRS} runs each, the longest '
    f'{max(alone):.2f} and {max(scored)[0]:.2f} s'
  )
  yield _line('overlap', sampled / min(alone), 'ratio', workload)
  yield _line('overlap_hidden', 1 - after / waited, 'share', workload)


def _line(
  figure: str, value: float, unit: str, workload: str
) -> Mapping[str, object]:
  return {
    'figure': figure,
    'value': round(value, 3),
    'unit': unit,
    'workload': workload,
    'machine': f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores, '
    f'load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}',
  }


FIGURES = ('overlap', 'overlap_hidden')
RUNS = ((FIGURES, run),)


def main() -> None:
  """Parses the flags, runs, prints."""
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--figures', default=','.join(FIGURES))
  wanted = parser.parse_args().figures.split(',')
  if unknown := sorted(set(wanted) - set(FIGURES)):
    parser.error(
      f'--figures: no {unknown[0]!r}; choose from {", ".join(FIGURES)}'
    )
  for line in run():
    if line['figure'] in wanted:
      print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
