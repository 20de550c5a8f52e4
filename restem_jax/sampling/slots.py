"""What runs on the device: prefill, and the slots with their two programs.

In: parameters, prompts, the slots' state. Out: the new state. What is *not*
here: which request is in which slot (`engine`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from restem_jax.models import cache
from restem_jax.models.transformer import Model, Params
from restem_jax.sampling import policies

FINISHES = ('', 'eos', 'stop', 'length')  # by code; 0 is still running


class Prefix(NamedTuple):
  """All shared prefixes, one behind the other in one row."""

  layers: tuple[cache.KV, ...]
  positions: Int[Array, '1 P']  # in its own prefix
  number: Int[Array, '1 P']  # which prefix, from 1; 0 is padding

  def seen_by(self, number: Int[Array, ' B']) -> cache.Context:
    """What rows with these prefixes (-1: none) attend to."""
    seen = self.number == number[:, None]
    return cache.Context(self.layers, self.positions, seen)


class State(NamedTuple):
  """What the device holds of the slots; donated from call to call."""

  cache: cache.Cache
  prefix: Int[Array, ' B']  # number of the shared prefix; -1: none
  keys: Array  # [B] rollout keys
  last: Int[Array, ' B']  # the token to feed next
  count: Int[Array, ' B']  # tokens sampled so far
  limit: Int[Array, ' B']
  stop_state: Int[Array, ' B']
  active: Bool[Array, ' B']
  finish: Int[Array, ' B']  # index into FINISHES
  tokens: Int[Array, 'B M']
  logprobs: Float[Array, 'B M']


class Fill(NamedTuple):
  """What goes into slots at once; row i of each fills slot slots[i]."""

  slots: Int[Array, ' R']  # B for rows that fill nothing
  rows: Int[Array, ' R']  # row of the prefill batch
  prefix: Int[Array, ' R']
  start: Int[Array, ' R']  # tokens of the prefix
  length: Int[Array, ' R']  # tokens behind it, without the last
  last: Int[Array, ' R']
  limit: Int[Array, ' R']
  words: Int[Array, 'R 2']  # problem id
  index: Int[Array, ' R']


def prefill(
  model: Model,
  params: Params,
  tokens: Int[Array, 'R T'],
  number: Int[Array, ' R'],
  start: Int[Array, ' R'],
  prefix: Prefix | None,
  implementation: str = 'xla',
) -> tuple[cache.KV, ...]:
  """Keys and values of prompts behind their shared prefixes."""
  at = start[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  contexts = () if prefix is None else (prefix.seen_by(number),)
  return model.extend(
    params, tokens, at, contexts=contexts, implementation=implementation
  )[1]


def prefill_prefix(
  model: Model,
  params: Params,
  tokens: Int[Array, '1 P'],
  positions: Int[Array, '1 P'],
  number: Int[Array, '1 P'],
  implementation: str = 'xla',
) -> Prefix:
  """Keys and values of all shared prefixes, in one packed row."""
  layers = model.extend(
    params, tokens, positions, number, implementation=implementation
  )[1]
  return Prefix(layers, positions, number)


def decode(
  model: Model,
  num_steps: int,
  num_segments: int,
  params: Params,
  state: State,
  prefix: Prefix | None,
  policy,
  stops,
  implementation: str = 'xla',
) -> tuple[State, Int[Array, '']]:
  """Up to `num_steps` steps for all slots; ends early if none is active.

  Args:
    model: whose parameters.
    num_steps: K.
    num_segments: of the cache that are read: they hold every active row, and
      K tokens more.
    params: as `Model.unstacked` gives them.
    state: donated.
    prefix: None if there is no shared one.
    policy: `Policy.scalars()`.
    stops: (is_eos, table) of `Stops`.
    implementation: of attention, as `kernels.choose_decoding` gives it.

  Returns:
    The state, and how many steps were made.
  """
  is_eos, table = stops
  rows = jnp.arange(state.last.shape[0])
  contexts = () if prefix is None else (prefix.seen_by(state.prefix),)

  def step(carry):
    i, s = carry
    position = s.cache.start + s.cache.length
    hidden, grown = model.extend(
      params,
      s.last[:, None],
      position[:, None],
      contexts=contexts,
      cache=s.cache,
      num_segments=num_segments,
      implementation=implementation,
    )
    keys = jax.vmap(jax.random.fold_in)(s.keys, s.count)
    logits = model.logits(params, hidden[:, 0])
    token, logprob = policies.draw(logits, keys, *policy)
    stop_state = table[s.stop_state, token].astype(jnp.int32)
    count = s.count + s.active
    finish = jnp.where(count >= s.limit, 3, 0)
    finish = jnp.where(stop_state == table.shape[0] - 1, 2, finish)
    finish = jnp.where(is_eos[token], 1, finish)
    # Rows that are not active write at M, which is dropped.
    at = jnp.where(s.active, s.count, s.tokens.shape[1])
    return i + 1, s._replace(
      cache=grown._replace(length=s.cache.length + s.active),
      last=jnp.where(s.active, token, s.last),
      count=count,
      stop_state=jnp.where(s.active, stop_state, s.stop_state),
      finish=jnp.where(s.active, finish, s.finish),
      active=s.active & (finish == 0),
      tokens=s.tokens.at[rows, at].set(token, mode='drop'),
      logprobs=s.logprobs.at[rows, at].set(logprob, mode='drop'),
    )

  running = lambda carry: (carry[0] < num_steps) & carry[1].active.any()
  steps, state = jax.lax.while_loop(running, step, (jnp.int32(0), state))
  return state, steps


def insert(
  state: State, layers: tuple[cache.KV, ...], fill: Fill, seed, iteration
) -> State:
  """Starts rollouts in slots, with prompts of a prefilled batch."""
  keys = policies.rollout_keys(seed, iteration, fill.words, fill.index)

  def put(old, new):
    return old.at[fill.slots].set(new, mode='drop')

  zero = jnp.zeros_like(fill.slots)
  return state._replace(
    cache=cache.insert(
      state.cache, layers, fill.rows, fill.slots, fill.start, fill.length
    ),
    prefix=put(state.prefix, fill.prefix),
    keys=put(state.keys, keys),
    last=put(state.last, fill.last),
    count=put(state.count, zero),
    limit=put(state.limit, fill.limit),
    stop_state=put(state.stop_state, zero),
    active=put(state.active, zero == 0),
    finish=put(state.finish, zero),
  )


def empty(
  model: Model,
  num_slots: int,
  segment_lens: Sequence[int],
  max_new_tokens: int,
  kv_dtype: Any,
) -> State:
  """Idle slots."""
  zeros = lambda *shape: jnp.zeros(shape, jnp.int32)
  b = num_slots
  return State(
    cache=cache.empty(model.config, b, segment_lens, kv_dtype),
    prefix=zeros(b),
    keys=jax.random.split(jax.random.key(0), b),
    last=zeros(b),
    count=zeros(b),
    limit=zeros(b),
    stop_state=zeros(b),
    active=zeros(b) > 0,
    finish=zeros(b),
    tokens=zeros(b, max_new_tokens),
    logprobs=jnp.zeros((b, max_new_tokens), jnp.float32),
  )
