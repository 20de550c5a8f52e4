"""The slots' state: what is filled runs, what is idle stays."""

import jax
import jax.numpy as jnp
import numpy as np

from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Model
from restem_jax.sampling import policies, slots as slots_lib, stops as stops_lib

CONFIG = ModelConfig(
  vocab_size=8,
  num_layers=1,
  embed_dim=4,
  mlp_dim=4,
  num_heads=2,
  num_kv_heads=1,
  head_dim=2,
)
MODEL = Model(CONFIG)


def filled(num_slots, used, limit):
  """A state whose slots `used` have just been given a two-token prompt."""
  state = slots_lib.empty(MODEL, num_slots, (4, 4), 4, jnp.float32)
  params = MODEL.unstacked(MODEL.init(jax.random.key(0)))
  none = jnp.full(1, -1), jnp.zeros(1, jnp.int32)
  layers = slots_lib.prefill(MODEL, params, jnp.array([[3]]), *none, None)
  pad = num_slots - len(used)
  zeros = jnp.zeros(num_slots, jnp.int32)
  fill = slots_lib.Fill(
    slots=jnp.array([*used, *[num_slots] * pad]),
    rows=zeros,
    prefix=zeros - 1,
    start=zeros,
    length=zeros + 1,
    last=zeros + 5,
    limit=zeros + limit,
    words=jnp.zeros((num_slots, 2), jnp.uint32),
    index=jnp.arange(num_slots),
  )
  args = np.uint32(0), np.uint32(0)
  return params, slots_lib.insert(state, layers, fill, *args)


def decode(params, state, num_steps):
  stops = stops_lib.build([b'x'] * 8)
  return jax.jit(slots_lib.decode, static_argnums=(0, 1, 2))(
    MODEL,
    num_steps,
    2,
    params,
    state,
    None,
    policies.GREEDY.scalars(),
    (stops.is_eos, stops.table),
  )


def test_only_filled_slots_run():
  params, state = filled(3, [2, 0], limit=3)
  assert state.active.tolist() == [True, False, True]
  state, steps = decode(params, state, 2)
  assert int(steps) == 2
  assert state.count.tolist() == [2, 0, 2]
  assert state.cache.length.tolist() == [3, 0, 3]
  assert state.finish.tolist() == [0, 0, 0]
  np.testing.assert_array_equal(state.tokens[0], state.tokens[2])
  np.testing.assert_array_equal(state.tokens[1], 0)


def test_decoding_ends_early_when_all_have_finished():
  params, state = filled(3, [1], limit=2)
  state, steps = decode(params, state, 50)
  assert int(steps) == 2
  assert state.active.tolist() == [False] * 3
  assert slots_lib.FINISHES[int(state.finish[1])] == 'length'


def test_a_slot_is_filled_anew():
  params, state = filled(2, [0], limit=2)
  first, _ = decode(params, state, 9)
  _, again = filled(2, [0], limit=2)
  again = again._replace(tokens=first.tokens)
  second, _ = decode(params, again, 9)
  np.testing.assert_array_equal(first.tokens, second.tokens)
  assert second.count.tolist() == [2, 0]
