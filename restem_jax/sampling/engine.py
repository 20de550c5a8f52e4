"""The sampling engine: token ids in, token ids out, all of it jitted.

In: requests (a problem's prompt ids and the sample indices wanted), a policy,
stops. Out: rollouts, in the order in which they finish. What is *not* here:
text, tasks, files.

A fixed number of slots decodes in fused calls of K steps; finished slots are
harvested and refilled between calls. What prompts begin with in common (few
shots) is prefilled once, and attended as one matrix when the rest of a prompt
is. That rest is prefilled once per problem, all but the last token; the N
samples then start by feeding that token, so drawing the first token is no
special case. Collection never stops at
"enough" samples: that would bias what is kept to short answers.

Programs are compiled ahead of time, one per prompt bucket for prefill and
insertion and one for decoding; a compiled program cannot recompile, and
`Engine.num_programs` counts them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array
import numpy as np

from restem_jax.models import cache
from restem_jax.models.transformer import Model, Params
from restem_jax.sampling import policies, slots as slots_lib
from restem_jax.sampling.stops import Stops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """Samples wanted of one problem."""

  problem_id: str
  prompt_ids: Sequence[int]
  indices: Sequence[int]  # sample indices, e.g. range(N)
  prefix_len: int = 0  # leading prompt ids that other requests have as well


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
  tokens: int = 0  # tokens sampled; tokens / (steps * slots) = utilisation
  prefilled: int = 0  # prompt tokens prefilled, padding not counted
  shared: int = 0  # prompt tokens taken from a shared prefix instead


class _Prefilled(NamedTuple):
  """A prefilled batch of prompts, kept until all their samples have slots."""

  prefix: cache.Context
  k: Array
  v: Array
  waiting: deque[tuple[int, Request, int]]  # (row, request, sample index)


def _prefill(model: Model, params, tokens, *prefix: cache.Context):
  """Keys and values of tokens `[R, T]` behind a shared prefix, if any."""
  start = prefix[0].length[0] if prefix else jnp.int32(0)
  at = start + jnp.arange(tokens.shape[1], dtype=jnp.int32)
  at = jnp.broadcast_to(at[None], tokens.shape)
  return model.hidden(params, tokens, at, contexts=prefix)[1]


def length_buckets(longest: int) -> tuple[int, ...]:
  """32, 48, 64, 96, ... and `longest`: at most 1.5x padding, few programs."""
  sizes = [32, 48]
  while sizes[-1] < longest:
    sizes.append(sizes[-2] * 2)
  return (*tuple(s for s in sizes if s < longest), longest)


class Engine:
  """Samples from one model with a fixed number of slots."""

  def __init__(
    self,
    model: Model,
    stops: Stops,
    *,
    max_prompt_len: int,
    max_new_tokens: int,
    max_prefix_len: int = 0,
    num_slots: int = 64,
    steps_per_call: int = 8,
    prefill_tokens: int = 512,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Allocates nothing yet.

    Args:
      model: parameters are cast to its dtype; so is the cache.
      stops: EOS ids and stop strings of this run.
      max_prompt_len: longest prompt, tokens.
      max_new_tokens: longest rollout, tokens.
      max_prefix_len: longest shared prefix, tokens.
      num_slots: B, rollouts that decode at the same time.
      steps_per_call: K, decode steps between two harvests.
      prefill_tokens: tokens per prefill call; prompts of one length bucket
        are prefilled that many together.
      mesh: slots go over `data` and `fsdp`, kv heads over `tensor`.
    """
    self.model, self.stops = model, stops
    self.max_prompt_len, self.max_new_tokens = max_prompt_len, max_new_tokens
    self.max_prefix_len = max_prefix_len
    self.num_slots, self.steps_per_call = num_slots, steps_per_call
    self.buckets = length_buckets(max_prompt_len)
    self.prefill_tokens = prefill_tokens
    self.mesh = mesh
    self.stats = Stats()
    self._programs: dict[tuple[str, int], Callable[..., Any]] = {}

  @property
  def num_programs(self) -> int:
    """Programs compiled so far: at most 2 per bucket, and 2 more."""
    return len(self._programs)

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
      params: the policy's parameters.
      requests: read lazily, a few prefill batches ahead of the slots.
      policy: temperature, top-k, top-p; changing it compiles nothing.
      seed: with the iteration, the problem id and the sample index it
        determines each rollout.
      iteration: as `seed`.
      max_new_tokens: limit of these rollouts; the engine's by default.

    Raises:
      ValueError: a prompt is empty or too long (names its problem), or the
        limit exceeds the engine's.
    """
    limit = self.max_new_tokens if max_new_tokens is None else max_new_tokens
    if not 0 < limit <= self.max_new_tokens:
      raise ValueError(
        f'max_new_tokens={limit}: the engine was built for '
        f'1..{self.max_new_tokens}'
      )
    params = jax.tree.map(lambda p: p.astype(self.model.dtype), params)
    stops = jax.device_put((self.stops.is_eos, self.stops.table))
    draws = (np.uint32(seed), np.uint32(iteration), np.int32(limit))
    batches = self._prefill_batches(params, requests)
    batch: _Prefilled | None = next(batches, None)
    state = slots_lib.empty(
      self.model,
      self.num_slots,
      # One more than prompt and rollout need: inactive rows write there.
      self.max_prompt_len + self.max_new_tokens + 1,
      self.max_new_tokens,
      self.mesh,
    )
    slots: list[tuple[Request, int] | None] = [None] * self.num_slots
    while True:
      free = deque(b for b, slot in enumerate(slots) if slot is None)
      while free and batch is not None:
        state = self._fill(state, batch, free, slots, draws)
        if not batch.waiting:
          batch = next(batches, None)
      if all(slot is None for slot in slots):
        return
      args = (params, state, policy.scalars(), stops)
      state, steps = self._run('decode', 0, *args)
      active, finish, count = jax.device_get(
        (state.active, state.finish, state.count)
      )
      self.stats.steps += int(steps)
      done = [
        b for b, slot in enumerate(slots) if slot is not None and not active[b]
      ]
      if done:
        tokens, logprobs = jax.device_get((state.tokens, state.logprobs))
      for b in done:
        slot = slots[b]
        assert slot is not None
        n = int(count[b])
        self.stats.tokens += n
        slots[b] = None
        yield Rollout(
          problem_id=slot[0].problem_id,
          index=slot[1],
          token_ids=tuple(tokens[b, :n].tolist()),
          logprobs=tuple(logprobs[b, :n].tolist()),
          finish=slots_lib.FINISHES[finish[b]],
        )

  def _fill(
    self, state, batch: _Prefilled, free, slots, draws
  ) -> slots_lib.State:
    """Puts waiting samples of a batch into free slots; one device call."""
    b = self.num_slots
    arrays: Any = {
      name: np.zeros(b, np.int32) for name in slots_lib.Fill._fields
    }
    arrays['slots'] += b
    arrays['words'] = np.zeros((b, 2), np.uint32)
    fill = slots_lib.Fill(**arrays)
    for i in range(min(len(free), len(batch.waiting))):
      row, request, index = batch.waiting.popleft()
      slot = free.popleft()
      slots[slot] = (request, index)
      fill.slots[i], fill.rows[i], fill.index[i] = slot, row, index
      fill.length[i] = len(request.prompt_ids) - 1
      fill.last[i] = request.prompt_ids[-1]
      fill.words[i] = policies.problem_words(request.problem_id)
    bucket = batch.k.shape[3]
    args = (state, batch.prefix, batch.k, batch.v, fill, *draws)
    return self._run('insert', bucket, *args)

  def _prefill_batches(self, params, requests) -> Iterator[_Prefilled]:
    """Prefills prompts, several of one prefix and length bucket a call."""
    waiting: dict[tuple[tuple[int, ...], int], list[Request]] = {}
    prefixes: dict[tuple[int, ...], cache.Context] = {}

    def prefill(key):
      ids, bucket = key
      if ids not in prefixes:
        prefixes[ids] = self._prefix(params, ids)
      return self._prefill(params, prefixes[ids], bucket, waiting.pop(key))

    for request in requests:
      key = (
        tuple(request.prompt_ids[: request.prefix_len]),
        self._bucket(request),
      )
      waiting.setdefault(key, []).append(request)
      if len(waiting[key]) == self._rows(key[1]):
        yield prefill(key)
      elif sum(map(len, waiting.values())) > 8 * self._rows(self.buckets[0]):
        yield prefill(max(waiting, key=lambda key: len(waiting[key])))
    while waiting:
      yield prefill(next(iter(waiting)))

  def _prefix(self, params, ids: tuple[int, ...]) -> cache.Context:
    """Keys and values of a shared prefix: one row, padded to the longest."""
    # At least one token wide: an empty prefix is one that nobody sees.
    tokens = np.zeros((1, max(1, self.max_prefix_len)), np.int32)
    tokens[0, : len(ids)] = ids
    self.stats.prefilled += len(ids)
    k, v = self._run('prefix', 0, params, tokens)
    return cache.Context(k, v, jnp.array([len(ids)], jnp.int32))

  def _rows(self, bucket: int) -> int:
    # A function of the bucket alone: the shape of the call, and with it the
    # rounding of a prompt's keys, does not depend on the prompt's neighbours.
    return max(1, self.prefill_tokens // bucket)

  def _bucket(self, request: Request) -> int:
    n = len(request.prompt_ids)
    if n == 0:
      raise ValueError(
        f'problem {request.problem_id}: its prompt is empty; begin it with '
        'the BOS token'
      )
    if n > self.max_prompt_len:
      raise ValueError(
        f'problem {request.problem_id}: its prompt has {n} tokens, the engine '
        f'takes {self.max_prompt_len}; raise max_prompt_len or shorten it'
      )
    if not 0 <= request.prefix_len <= min(n - 1, self.max_prefix_len):
      raise ValueError(
        f'problem {request.problem_id}: prefix_len={request.prefix_len} must '
        f'be less than its {n} prompt tokens, and at most max_prefix_len='
        f'{self.max_prefix_len}'
      )
    return next(b for b in self.buckets if b >= n - request.prefix_len)

  def _prefill(
    self, params, prefix: cache.Context, bucket: int, group: list[Request]
  ) -> _Prefilled:
    tokens = np.zeros((self._rows(bucket), bucket), np.int32)
    for row, request in enumerate(group):
      # The last prompt token is fed by the slots, see the module docstring.
      ids = request.prompt_ids[request.prefix_len : -1]
      tokens[row, : len(ids)] = ids
      self.stats.prefilled += len(ids)
      self.stats.shared += request.prefix_len
    k, v = self._run('prefill', bucket, params, tokens, prefix)
    samples = deque((r, q, i) for r, q in enumerate(group) for i in q.indices)
    return _Prefilled(prefix, k, v, samples)

  def _run(self, kind: str, bucket: int, *args):
    """Runs a program, compiling it ahead of time if it is not there yet."""
    program = self._programs.get((kind, bucket))
    if program is None:
      if kind == 'decode':
        fn = functools.partial(
          slots_lib.decode, self.model, self.steps_per_call
        )
        jitted = jax.jit(fn, donate_argnums=1)
      elif kind == 'insert':
        jitted = jax.jit(slots_lib.insert, donate_argnums=0)
      else:
        jitted = jax.jit(functools.partial(_prefill, self.model))
      program = jitted.lower(*args).compile()
      self._programs[kind, bucket] = program
    return program(*args)
