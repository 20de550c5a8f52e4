"""The slots on the device: their state, and the two programs that change it.

In: prefilled prompts to insert, and parameters to decode with. Out: the new
state. What is *not* here: which request is in which slot (`engine`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from restem_jax import partitioning
from restem_jax.models import cache
from restem_jax.models.transformer import Model
from restem_jax.sampling import policies

FINISHES = ('', 'eos', 'stop', 'length')  # by code; 0 is still running


class State(NamedTuple):
  """What the device holds of the slots; donated from call to call."""

  context: cache.Context
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

  slots: Int[Array, ' B']  # B for rows that fill nothing
  rows: Int[Array, ' B']  # row of the prefill batch
  length: Int[Array, ' B']
  last: Int[Array, ' B']
  words: Int[Array, 'B 2']  # problem id
  index: Int[Array, ' B']


def decode(model: Model, num_steps: int, params, state, policy, stops):
  """Up to `num_steps` steps for all slots; ends early if none is active."""
  is_eos, table = stops

  def step(carry):
    i, s = carry
    hidden, fresh = model.hidden(
      params,
      s.last[:, None],
      positions=s.context.length[:, None],
      contexts=(s.context,),
    )
    assert fresh is not None
    keys = jax.vmap(jax.random.fold_in)(s.keys, s.count)
    logits = model.logits(params, hidden[:, 0])
    token, logprob = policies.draw(logits, keys, *policy)
    stop_state = table[s.stop_state, token].astype(jnp.int32)
    count = s.count + s.active
    finish = jnp.where(count >= s.limit, 3, 0)
    finish = jnp.where(stop_state == table.shape[0] - 1, 2, finish)
    finish = jnp.where(is_eos[token], 1, finish)
    rows = jnp.arange(s.last.shape[0])
    # Rows that are not active write at M, which is dropped.
    at = jnp.where(s.active, s.count, s.tokens.shape[1])
    return i + 1, s._replace(
      context=cache.append(s.context, fresh[0], fresh[1], s.active),
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
  state: State, prefix: cache.Context, k, v, fill: Fill, seed, iteration, limit
):
  """Starts rollouts in slots: a shared prefix, then a prompt of the batch."""
  keys = policies.rollout_keys(seed, iteration, fill.words, fill.index)

  def put(old, new):
    return old.at[fill.slots].set(new, mode='drop')

  zero = jnp.zeros_like(fill.slots)
  context = state.context
  for part, start in (
    ((prefix.k, prefix.v), 0),
    ((k[:, fill.rows], v[:, fill.rows]), prefix.length[0]),
  ):
    context = cache.insert(context, *part, fill.slots, start, fill.length)
  return state._replace(
    context=context,
    keys=put(state.keys, keys),
    last=put(state.last, fill.last),
    count=put(state.count, zero),
    limit=put(state.limit, zero + limit),
    stop_state=put(state.stop_state, zero),
    active=put(state.active, zero == 0),
    finish=put(state.finish, zero),
  )


_ROW = ('batch',)
_GRID = ('batch', 'length')
_KV = ('layers', 'batch', 'kv_heads', 'length', 'head_dim')
# Logical axes of the state's arrays.
_AXES = State(
  context=cache.Context(_KV, _KV, _ROW),  # pyright: ignore
  **dict.fromkeys(set(State._fields) - {'context'}, _ROW)  # pyright: ignore
  | {'tokens': _GRID, 'logprobs': _GRID},
)


def empty(
  model: Model,
  num_slots: int,
  max_len: int,
  max_new_tokens: int,
  mesh: jax.sharding.Mesh | None,
) -> State:
  """Idle slots. With a mesh: slots over data and fsdp, kv heads over tensor."""
  zeros = lambda *shape: jnp.zeros(shape, jnp.int32)
  b = num_slots
  state = State(
    context=cache.empty(model.config, b, max_len, model.dtype),
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
  if mesh is None:
    return state
  return jax.device_put(state, partitioning.shardings(mesh, _AXES))
