"""E-step, first half: sample N solutions per problem from the current policy.

In: problems, the policy's parameters. Out: `samples-<chunk>.jsonl` shards,
one row per rollout, in the order (problem, sample index). What is *not* here:
rewards (`score`). Of several hosts, each samples its share of the chunks, on
its own devices.

A chunk of problems is the unit that is kept: it is written when the last of
its rollouts has finished, while the engine goes on with the next ones. A run
that was killed samples only the chunks that are not complete.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import logging
from typing import Any

from etils import epath
from jax.sharding import Mesh

from restem_jax import memory, metrics, multihost, partitioning, shards
from restem_jax.em.task import SPLITS, Task
from restem_jax.models import kernels
from restem_jax.models.transformer import Model, Params
from restem_jax.records import Problem, Sample, to_json
from restem_jax.sampling import engine as engine_lib, stops as stops_lib
from restem_jax.sampling.policies import Policy
from restem_jax.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

KV_DTYPES = ('auto', 'float32', 'bfloat16', 'int8')

ParamsFn = Callable[[], Params]  # called only if something is left to do


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """How to sample. The paper: N = 32 (MATH) or 64 (code), T 0.7, top-k 40.

  Attributes:
    num_samples: N, rollouts per problem and iteration.
    policy: temperature, top-k, top-p of the E-step.
    num_slots: rollouts that decode at the same time.
    steps_per_call: decode steps between two refills of slots.
    prefill_tokens: prompt tokens per prefill call.
    kv_dtype: of the cache: 'auto' is the compute dtype; 'int8' takes a half
      or a quarter of the memory and changes samples a little.
    attention: of prompts: 'xla', or 'cudnn' on GPUs (bfloat16).
    decode_attention: 'auto', 'xla' or 'triton' (`kernels.choose_decoding`).
    problems_per_shard: the work that a kill can lose, in problems.
  """

  num_samples: int = 32
  policy: Policy = Policy(temperature=0.7, top_k=40)
  num_slots: int = 64
  steps_per_call: int = 8
  prefill_tokens: int = 512
  kv_dtype: str = 'auto'
  attention: str = 'xla'
  decode_attention: str = 'auto'
  problems_per_shard: int = 32

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name in ('policy', 'kv_dtype', 'attention', 'decode_attention'):
        continue
      if not isinstance(value, int) or value < 1:
        raise ValueError(f'Sampling.{field.name}={value!r}; write 1 or more')
    if self.kv_dtype not in KV_DTYPES:
      raise ValueError(
        f'Sampling.kv_dtype={self.kv_dtype!r}; write one of '
        f'{", ".join(KV_DTYPES)}'
      )

    for name, choices in (
      ('attention', kernels.PREFILL_CHOICES),
      ('decode_attention', kernels.DECODING_CHOICES),
    ):
      if (value := getattr(self, name)) not in choices:
        raise ValueError(
          f'Sampling.{name}={value!r}; write one of {", ".join(choices)}'
        )

  def kv(self) -> str | None:
    """`kv_dtype` as the engine takes it."""
    return None if self.kv_dtype == 'auto' else self.kv_dtype

  def implementations(
    self, model: Model, mesh: Mesh | None, max_prompt_len: int
  ) -> dict[str, Any]:
    """Of attention, by the names that `sampling.programs.Shape` has for them.

    Raises:
      ValueError: they can't be what the attributes say.
    """
    platform = partitioning.platform(mesh)
    try:
      return {
        'prefill_attention': kernels.choose(
          self.attention,
          platform=platform,
          config=model.config,
          dtype=model.dtype,
          row_len=max_prompt_len,
        ),
        'decode_attention': kernels.choose_decoding(
          self.decode_attention,
          platform=platform,
          dtype=model.dtype,
          kv_dtype=self.kv() or model.dtype,
        ),
      }
    except ValueError as e:
      raise ValueError(f'Sampling.{e}') from None


def _common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
  """Leading tokens that all share, the last token of each left out."""
  # Of the first and the last in order: all others lie between.
  first, last = min(prompts), max(prompts)
  length = 0
  for a, b in zip(first[:-1], last[:-1], strict=False):
    if a != b:
      break
    length += 1
  # A prompt that is a prefix of another one sorts before it.
  return min(length, min(map(len, prompts)) - 1)


class Sampler:
  """Text in, samples out: a task's prompts, the engine, a tokenizer."""

  def __init__(
    self,
    task: Task,
    model: Model,
    tokenizer: Tokenizer,
    sampling: Sampling,
    mesh: Mesh | None = None,
  ):
    self.task, self.model, self.tokenizer = task, model, tokenizer
    self.sampling, self.mesh = sampling, mesh
    parts = 1 if mesh is None else partitioning.batch_parts(mesh)
    if sampling.num_slots % parts:
      raise ValueError(
        f'Sampling.num_slots={sampling.num_slots} must be a multiple of '
        f'{parts}, the data x fsdp devices of the mesh'
      )
    self._implementations = sampling.implementations(
      model, mesh, task.max_prompt_len
    )

  @functools.cached_property
  def _prompts(self) -> dict[str, tuple[int, ...]]:
    problems = [p for split in SPLITS for p in self.task.problems(split)]
    return self.task.prompt_ids(problems, self.tokenizer)

  def prompt_ids(
    self, problems: Iterable[Problem]
  ) -> dict[str, tuple[int, ...]]:
    """Prompt token ids by problem id, without those that are too long."""
    return {
      p.id: self._prompts[p.id] for p in problems if p.id in self._prompts
    }

  @functools.cached_property
  def _prefixes(self) -> list[tuple[int, ...]]:
    """What all whole prompts of a task begin with, where they share some."""
    task_of = {
      p.id: p.task for split in SPLITS for p in self.task.problems(split)
    }
    truncate = self.task.long_prompts == 'truncate'
    prompts: dict[str, list[tuple[int, ...]]] = {}
    for problem_id, ids in self._prompts.items():
      # A truncated prompt has lost its beginning: it shares none.
      if len(ids) < self.task.max_prompt_len or not truncate:
        prompts.setdefault(task_of[problem_id], []).append(ids)
    found = (ids[0][: _common_prefix(ids)] for ids in prompts.values())
    # Longest first, as the engine looks for them.
    return sorted((p for p in found if p), key=len, reverse=True)

  @functools.cached_property
  def _engine(self) -> engine_lib.Engine:
    stops = stops_lib.build(
      self.tokenizer.token_bytes(),
      self.tokenizer.eos_ids,
      self.task.prompt.stops,
      vocab_size=self.model.config.vocab_size,
    )
    prompts = self._prompts.values()  # of all splits: it compiles once
    own = lambda ids: (
      len(ids) - engine_lib.shared_prefix(ids, self._prefixes)[1]
    )
    return engine_lib.Engine(
      self.model,
      stops,
      max_prompt_len=max(map(own, prompts), default=1),
      max_new_tokens=self.task.max_new_tokens,
      prefixes=self._prefixes,
      num_slots=self.sampling.num_slots,
      steps_per_call=self.sampling.steps_per_call,
      prefill_tokens=self.sampling.prefill_tokens,
      kv_dtype=self.sampling.kv(),
      mesh=self.mesh,
      **self._implementations,
    )

  def compiling(self) -> contextlib.AbstractContextManager[None]:
    """See `Programs.compiling`."""
    return self._engine.programs.compiling()

  @property
  def stats(self) -> engine_lib.Stats:
    """Counters of the engine."""
    return self._engine.stats

  def sample(
    self,
    params: Params,
    problems: Iterable[Problem],
    policy: Policy,
    *,
    num_samples: int,
    seed: int,
    iteration: int,
  ) -> Iterator[Sample]:
    """Yields samples as they finish; problems with too long prompts have none.

    Args: as `Engine.sample`.
    """
    prompts = self.prompt_ids(problems)
    requests = (
      engine_lib.Request(
        problem_id=problem_id,
        prompt_ids=ids,
        indices=range(num_samples),
      )
      for problem_id, ids in prompts.items()
    )
    memory.trim()  # of what came before
    for rollout in self._engine.sample(
      params, requests, policy, seed=seed, iteration=iteration
    ):
      text = self.tokenizer.decode(rollout.token_ids)
      yield Sample(
        problem_id=rollout.problem_id,
        index=rollout.index,
        iteration=iteration,
        seed=seed,
        text=self._engine.stops.trim(text),
        token_ids=rollout.token_ids,
        # Six digits: below what bf16 or another machine would change.
        logprobs=tuple(round(x, 6) for x in rollout.logprobs),
        finish=rollout.finish,
      )
    memory.trim()


def shard_path(directory: epath.Path, kind: str, chunk: int) -> epath.Path:
  """`samples-00003.jsonl`, `verdicts-00003.jsonl`."""
  return directory / f'{kind}-{chunk:05d}.jsonl'


def chunks(
  problems: Sequence[Problem], problems_per_shard: int
) -> list[Sequence[Problem]]:
  """The problems, cut into the chunks of the shards."""
  return [
    problems[i : i + problems_per_shard]
    for i in range(0, len(problems), problems_per_shard)
  ]


def generate(
  directory: epath.Path,
  problems: Sequence[Problem],
  sampler: Sampler,
  params_fn: ParamsFn,
  policy: Policy,
  *,
  num_samples: int,
  seed: int,
  iteration: int,
  what: str,
  written: Callable[[int], None] = lambda chunk: None,
) -> None:
  """Completes the sample shards of `directory`: this host's share of them.

  Args:
    directory: e.g. `iteration_01/samples`.
    problems: in the order of the shards.
    sampler: prompts and engine.
    params_fn: gives the policy's parameters; not called if all is done.
    policy: of the draws.
    num_samples: N per problem.
    seed: of the draws, with the iteration.
    iteration: as `seed`.
    what: names the work in logs and progress bars.
    written: told the number of each shard as soon as it is on disk.
  """
  cut = chunks(problems, sampler.sampling.problems_per_shard)

  def incomplete() -> list[int]:
    directory.mkdir(parents=True, exist_ok=True)
    shards.clean(directory, 'samples-*')
    return [
      c
      for c in range(len(cut))
      if shards.status(shard_path(directory, 'samples', c)) != 'complete'
    ]

  # Seen by one: when another looks, shards of this call may be there.
  todo = multihost.first(what, incomplete)
  if 0 < len(todo) < len(cut):
    _log.info('%s: %d of %d shards are complete', what, len(cut) - len(todo),
              len(cut))  # fmt: skip
  todo = multihost.share(todo)
  if not todo:
    return
  chunk_of = {p.id: c for c in todo for p in cut[c]}
  pending = {c: num_samples * len(sampler.prompt_ids(cut[c])) for c in todo}
  finished: dict[int, list[Sample]] = {c: [] for c in todo}

  def write(c: int) -> None:
    order = {p.id: i for i, p in enumerate(cut[c])}
    rows = sorted(finished.pop(c), key=lambda s: (order[s.problem_id], s.index))
    path = shard_path(directory, 'samples', c)
    shards.write_shard(path, map(to_json, rows))
    written(c)

  for c in [c for c in todo if not pending[c]]:
    write(c)  # every prompt of it is too long
  left = sum(pending.values())
  with sampler.compiling():
    params = params_fn()
  samples = sampler.sample(
    params,
    (p for c in todo for p in cut[c]),
    policy,
    num_samples=num_samples,
    seed=seed,
    iteration=iteration,
  )
  del params  # the engine makes a copy and lets go of them
  total = num_samples * len(problems) // multihost.count()
  with metrics.progress(what, total, total - left) as bar:
    for sample in samples:
      bar.advance()
      c = chunk_of[sample.problem_id]
      finished[c].append(sample)
      if len(finished[c]) == pending[c]:
        write(c)
