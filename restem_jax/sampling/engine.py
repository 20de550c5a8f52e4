"""The sampling engine: token ids in, token ids out, all of it jitted.

In: requests (a problem's prompt ids and the sample indices wanted), a policy,
stops. Out: rollouts, in the order in which they finish. What is *not* here:
text, tasks, files; the programs themselves (`slots`).

A fixed number of slots decodes in fused calls of K steps; finished slots are
harvested and refilled between calls. What prompts begin with in common (few
shots) is prefilled once per call of `sample` and attended as one matrix, by
prompts and by slots. What is left of a prompt is prefilled once per problem,
all but the last token; the N samples then start by feeding that token, so
drawing the first token is no special case. Collection never stops at "enough"
samples: that would bias what is kept to short answers.

Programs are compiled ahead of time from shapes alone: one per prompt bucket
for prefill and for insertion, one per number of cache segments for decoding. A
compiled program cannot recompile, and `len(Engine.programs)` counts them.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from restem_jax.models import cache
from restem_jax.models.transformer import Model, Params
from restem_jax.sampling import policies, programs, slots as slots_lib
from restem_jax.sampling.stops import Stops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """Samples wanted of one problem."""

  problem_id: str
  prompt_ids: Sequence[int]
  indices: Sequence[int]  # sample indices, e.g. range(N)
  max_new_tokens: int | None = None  # if not the limit of `Engine.sample`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
  """One finished sample."""

  problem_id: str
  index: int
  token_ids: tuple[int, ...]  # what was sampled, the stop's own included
  logprobs: tuple[float, ...]  # nats, untempered; one per token id
  finish: str  # 'eos' | 'stop' | 'length'


@dataclasses.dataclass
class Stats:
  """Counters of an engine's life."""

  steps: int = 0  # decode steps, each over all slots
  tokens: int = 0  # tokens sampled
  queued_steps: int = 0  # steps while a rollout waited for a slot
  queued_tokens: int = 0  # tokens of these
  prefilled: int = 0  # prompt tokens prefilled, padding not counted
  shared: int = 0  # prompt tokens taken from a shared prefix instead

  def add(self, steps: int, tokens: int, queue: object) -> None:
    """Counts a decode call; `queue`: None if no rollout waited for a slot."""
    self.steps += steps
    self.tokens += tokens
    if queue is not None:
      self.queued_steps += steps
      self.queued_tokens += tokens

  def utilisation(self, num_slots: int) -> float:
    """Share of the slots' steps that sampled a token, the tail left out."""
    return self.queued_tokens / max(1, self.queued_steps * num_slots)


class _Prefilled(NamedTuple):
  """A prefilled batch of prompts, kept until all their samples have slots."""

  bucket: int
  layers: tuple[cache.KV, ...]
  waiting: deque[tuple[int, Request, int]]  # (row, request, sample index)


def shared_prefix(
  ids: Sequence[int], prefixes: Sequence[tuple[int, ...]]
) -> tuple[int, int]:
  """Number (from 1; -1 for none) and length of the first that `ids` shares."""
  for number, prefix in enumerate(prefixes, 1):
    # A prompt's last token is fed by its slots, and so never shared.
    if len(prefix) < len(ids) and tuple(ids[: len(prefix)]) == prefix:
      return number, len(prefix)
  return -1, 0


class Engine:
  """Samples from one model with a fixed number of slots."""

  def __init__(
    self,
    model: Model,
    stops: Stops,
    *,
    max_prompt_len: int,
    max_new_tokens: int,
    prefixes: Sequence[Sequence[int]] = (),
    mesh: jax.sharding.Mesh | None = None,
    **shape: Any,
  ):
    """Allocates nothing yet.

    Args:
      model: parameters are cast to its dtype.
      stops: EOS ids and stop strings of this run.
      max_prompt_len: longest prompt behind its shared prefix, tokens.
      max_new_tokens: longest rollout, tokens.
      prefixes: what many prompts begin with; each prompt shares the longest
        that it begins with, and none is an empty one.
      mesh: slots go over `data` and `fsdp`, kv heads over `tensor`.
      **shape: `programs.Shape`: num_slots, steps_per_call, prefill_tokens,
        segment_len, kv_dtype, prefill_attention, decode_attention.

    Raises:
      ValueError: a prefix is empty, or the slots don't divide by the mesh.
    """
    # Longest first: the first that matches is the longest that matches.
    self.prefixes = sorted(
      set(map(tuple, prefixes)), key=lambda p: (-len(p), p)
    )
    if () in self.prefixes:
      raise ValueError('a shared prefix is empty; leave it out')
    self.stops = stops
    self.shape = programs.Shape(
      max_prompt_len=max_prompt_len,
      max_new_tokens=max_new_tokens,
      prefix_len=sum(map(len, self.prefixes)),
      **shape,
    )
    self.programs = programs.Programs(model, stops, self.shape, mesh)
    self.stats = Stats()

  def prepare(self, params: Params) -> Params:
    """Parameters as the programs want them (`Model.unstacked`), for `sample`.

    A copy: let go of `params` where memory counts.
    """
    with self.programs.explained():
      return self.programs.prepare(params)

  def sample(
    self,
    params: Params,
    requests: Iterable[Request],
    policy: policies.Policy,
    *,
    seed: int,
    iteration: int = 0,
    max_new_tokens: int | None = None,
  ) -> Iterator[Rollout]:
    """Yields every rollout asked for, in the order in which they finish.

    Args:
      params: the policy's parameters, as they are or from `prepare`.
      requests: read lazily, a few prefill batches ahead of the slots.
      policy: temperature, top-k, top-p; changing it compiles nothing.
      seed: with the iteration, the problem id and the sample index it
        determines each rollout.
      iteration: as `seed`.
      max_new_tokens: limit of these rollouts; the engine's by default.

    Raises:
      ValueError: a prompt is empty or too long (names its problem), or the
        limit exceeds the engine's.
      OutOfMemory: names the knobs and the computed bytes.
    """
    limit = (
      self.shape.max_new_tokens if max_new_tokens is None else max_new_tokens
    )
    self._check_limit(limit)
    requests = iter(requests)
    if (first := next(requests, None)) is None:
      return
    requests = itertools.chain([first], requests)
    with self.programs.explained():
      params = self.programs.prepare(params)
      draws = (np.uint32(seed), np.uint32(iteration))
      yield from self._sample(params, requests, policy, limit, draws)

  def _sample(
    self, params, requests, policy, limit: int, draws
  ) -> Iterator[Rollout]:
    stops = self.programs.put((self.stops.is_eos, self.stops.table))
    prefix = self._prefill_prefix(params)
    batches = self._prefill_batches(params, prefix, requests)
    batch: _Prefilled | None = next(batches)
    state = self.programs.empty_state()
    slots: list[tuple[Request, int] | None] = [None] * self.shape.num_slots
    # On the host: tokens in the cache and tokens sampled of each slot.
    length, count = np.zeros((2, len(slots)), np.int64)
    while True:
      free = deque(b for b, slot in enumerate(slots) if slot is None)
      while free and batch is not None:
        fill, num = self._fill(batch, free, slots, limit)
        length[fill.slots[:num]] = fill.length[:num]
        count[fill.slots[:num]] = 0
        args = (state, batch.layers, fill, *draws)
        state = self.programs.run('insert', batch.bucket, *args)
        if not batch.waiting:
          batch = next(batches, None)
      busy = np.array([slot is not None for slot in slots])
      if not busy.any():
        return
      segments = self._segments(length[busy].max() + self.shape.steps_per_call)
      args = (params, state, prefix, policy.scalars(), stops)
      state, steps = self.programs.run('decode', segments, *args)
      active, finish, counted, steps = jax.device_get(
        (state.active, state.finish, state.count, steps)
      )
      self.stats.add(int(steps), int((counted - count)[busy].sum()), batch)
      length[busy] += steps
      count[busy] = counted[busy]
      done = np.flatnonzero(busy & ~active)
      if done.size:
        tokens, logprobs = jax.device_get((state.tokens, state.logprobs))
      for b in done:
        slot = slots[b]
        assert slot is not None
        n = int(count[b])
        slots[b] = None
        yield Rollout(
          problem_id=slot[0].problem_id,
          index=slot[1],
          token_ids=tuple(tokens[b, :n].tolist()),
          logprobs=tuple(logprobs[b, :n].tolist()),
          finish=slots_lib.FINISHES[finish[b]],
        )

  def _segments(self, reach: int) -> int:
    """How many segments hold `reach` tokens; all of them if none do."""
    ends = np.cumsum(self.shape.segment_lens)
    return min(int((ends < reach).sum()) + 1, len(ends))

  def _fill(
    self, batch: _Prefilled, free, slots, limit: int
  ) -> tuple[slots_lib.Fill, int]:
    """Gives waiting samples of a batch free slots: one call's worth of them."""
    fill = self.shape.no_fill()
    num = min(len(free), len(batch.waiting), len(fill.slots))
    for i in range(num):
      row, request, index = batch.waiting.popleft()
      slot = free.popleft()
      slots[slot] = (request, index)
      number, start = self._shared(request)
      fill.slots[i], fill.rows[i], fill.index[i] = slot, row, index
      fill.prefix[i], fill.start[i] = number, start
      fill.length[i] = len(request.prompt_ids) - 1 - start
      fill.last[i] = request.prompt_ids[-1]
      fill.limit[i] = request.max_new_tokens or limit
      fill.words[i] = policies.problem_words(request.problem_id)
    return fill, num

  def _prefill_batches(self, params, prefix, requests) -> Iterator[_Prefilled]:
    """Prefills prompts, several of one length bucket a call."""
    waiting: dict[int, list[Request]] = {}
    prefill = lambda bucket: self._prefill(
      params, prefix, bucket, waiting.pop(bucket)
    )
    for request in requests:
      bucket = self._bucket(request)
      waiting.setdefault(bucket, []).append(request)
      if len(waiting[bucket]) == self.programs.rows(bucket):
        yield prefill(bucket)
      elif sum(map(len, waiting.values())) > 8 * self.programs.rows(
        self.shape.buckets[0]
      ):
        yield prefill(max(waiting, key=lambda bucket: len(waiting[bucket])))
    while waiting:
      yield prefill(next(iter(waiting)))

  def _shared(self, request: Request) -> tuple[int, int]:
    return shared_prefix(request.prompt_ids, self.prefixes)

  def _check_limit(self, limit: int) -> None:
    if not 0 < limit <= self.shape.max_new_tokens:
      raise ValueError(
        f'max_new_tokens={limit}: the engine was built for '
        f'1..{self.shape.max_new_tokens}'
      )

  def _bucket(self, request: Request) -> int:
    if request.max_new_tokens is not None:
      self._check_limit(request.max_new_tokens)
    n = len(request.prompt_ids)
    if n == 0:
      raise ValueError(
        f'problem {request.problem_id}: its prompt is empty; begin it with '
        'the BOS token'
      )
    own = n - self._shared(request)[1]
    if own > self.shape.max_prompt_len:
      raise ValueError(
        f'problem {request.problem_id}: its prompt has {own} tokens, the '
        f'engine takes {self.shape.max_prompt_len}; raise max_prompt_len or '
        'shorten it'
      )
    return next(b for b in self.shape.buckets if b >= own - 1)

  def _prefill(
    self, params, prefix, bucket: int, group: list[Request]
  ) -> _Prefilled:
    rows = self.programs.rows(bucket)
    tokens = np.zeros((rows, bucket), np.int32)
    number, start = np.full(rows, -1, np.int32), np.zeros(rows, np.int32)
    for row, request in enumerate(group):
      number[row], start[row] = self._shared(request)
      ids = request.prompt_ids[start[row] : -1]
      tokens[row, : len(ids)] = ids
      self.stats.prefilled += len(ids)
      self.stats.shared += int(start[row])
    args = (params, tokens, number, start, prefix)
    layers = self.programs.run('prefill', bucket, *args)
    samples = deque((r, q, i) for r, q in enumerate(group) for i in q.indices)
    return _Prefilled(bucket, layers, samples)

  def _prefill_prefix(self, params) -> slots_lib.Prefix | None:
    if not self.prefixes:
      return None
    tokens = np.concatenate([np.array(p, np.int32) for p in self.prefixes])
    self.stats.prefilled += len(tokens)
    positions = np.concatenate([np.arange(len(p)) for p in self.prefixes])
    number = np.repeat(
      np.arange(len(self.prefixes)) + 1, [len(p) for p in self.prefixes]
    )
    row = lambda x: x.astype(np.int32)[None]
    args = (params, row(tokens), row(positions), row(number))
    return self.programs.run('prefix', 0, *args)
