"""Programs are known from shapes alone, and so is what they take."""

import time

import jax
import jax.numpy as jnp
import pytest

from restem_jax import partitioning
from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Model
from restem_jax.sampling import engine, policies, programs, stops

CONFIG = ModelConfig(
  vocab_size=8,
  num_layers=2,
  embed_dim=4,
  mlp_dim=4,
  num_heads=2,
  num_kv_heads=2,
  head_dim=2,
)
MODEL = Model(CONFIG)
STOPS = stops.build([b'x'] * 8)


def make(mesh=None, **shape):
  shape = {'max_prompt_len': 9, 'max_new_tokens': 8, 'num_slots': 4} | shape
  return programs.Programs(MODEL, STOPS, programs.Shape(**shape), mesh)


def test_length_buckets():
  assert programs.length_buckets(5) == (5,)
  assert programs.length_buckets(100) == (32, 48, 64, 96, 100)


def test_the_shape_has_room_for_all_but_the_last_token():
  made = make(max_prompt_len=100, max_new_tokens=60, segment_len=64)
  shape = made.shape
  assert shape.buckets[-1] == 99
  assert shape.segment_lens == (64, 64, 32)  # 159 in steps of 32
  assert made.rows(64) == 8
  assert made.rows(1000) == 1


@pytest.mark.slow('12 s each: compiles all programs')
@pytest.mark.parametrize('axes', [{}, {'data': 2, 'tensor': 2, 'fsdp': 2}])
def test_every_program_compiles_from_shapes(axes):
  mesh = partitioning.make_mesh(**axes) if axes else None
  made = make(mesh, prefix_len=3, max_prompt_len=40, segment_len=16)
  assert made.keys() == [
    ('prefix', 0),
    ('prefill', 39),
    ('insert', 39),
    ('decode', 1),
    ('prefill', 32),
    ('insert', 32),
    ('decode', 2),
    ('decode', 3),
  ]
  made.compile()
  assert len(made) == len(made.keys())
  made.prepare(MODEL.init(jax.random.key(0)))
  made.empty_state()
  assert len(made) == len(made.keys()) + 2


def test_num_bytes():
  sizes = make(prefix_len=3, prefill_tokens=64, kv_dtype='int8').num_bytes()
  assert sizes == {
    'weights': CONFIG.num_params * 4,
    # 2 layers, keys and values, 4 slots, 2 heads, 32 tokens: 2 dims and a
    # scale. And start and length of each slot.
    'kv': 2 * 2 * 4 * 2 * 32 * (2 + 4) + 4 * 2 * 4,
    'prefix': 2 * 2 * 2 * 3 * 2 * 4 + 2 * 3 * 4,
    'prompts': 2 * 2 * 2 * 64 * 2 * 4,
    'logits': 4 * 8 * 4,
  }


def test_slots_must_divide_by_the_mesh():
  mesh = partitioning.make_mesh(data=2, fsdp=2, tensor=2)
  with pytest.raises(ValueError, match=r'6 slots.*num_slots=8'):
    make(mesh, num_slots=6)


def test_out_of_memory_names_the_knobs():
  big = {'num_slots': 1 << 20, 'max_new_tokens': 1 << 20}
  assert make(**big).num_bytes()['kv'] > 1 << 40
  made = engine.Engine(MODEL, STOPS, max_prompt_len=2, **big)
  request = engine.Request(problem_id='p', prompt_ids=[1], indices=[0])
  params = MODEL.init(jax.random.key(0))
  with pytest.raises(programs.OutOfMemory, match=r'num_slots.*int8'):
    list(made.sample(params, [request], policies.GREEDY, seed=0))


def test_unstacked_parameters_stay_as_they_are():
  made = make()
  params = made.prepare(MODEL.init(jax.random.key(0)))
  assert made.prepare(params) is params
  got = jax.tree.map(lambda x: (x.shape, x.dtype), params)
  want = jax.tree.map(lambda x: (x.shape, x.dtype), made.params())
  assert got == want
  assert params['layers'][1]['mlp']['up'].dtype == jnp.float32


@pytest.mark.slow('5 s: compiles all programs')
def test_what_is_compiled_beside_other_work_is_not_compiled_again():
  made = make(max_prompt_len=40, segment_len=16)
  with made.compiling():
    while len(made.compiled) < 2:
      time.sleep(0.01)
  begun = dict(made.compiled)
  assert 2 <= len(begun) <= 4  # at most one more when the block ended
  assert list(begun) == made.keys()[: len(begun)]
  made.compile()
  assert set(made.compiled) == set(made.keys())
  assert all(made.compiled[key] is begun[key] for key in begun)


def test_errors_beside_compiling_are_told():
  made = make()
  with pytest.raises(ValueError, match='no weights'), made.compiling():
    raise ValueError('no weights')
  made.lower = lambda *_: 1 / 0
  with pytest.raises(ZeroDivisionError), made.compiling():
    pass
