"""The engine equals the slow reference, whatever its shape."""

import dataclasses
import functools
import gc
import string
import tracemalloc

import cases
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from restem_jax import partitioning
from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Model
from restem_jax.sampling import (
  engine as engine_lib,
  policies,
  reference,
  stops as stops_lib,
)

# Token i is one character or, from 90, two: stop strings cross boundaries.
CHARS = string.printable[:90]
TOKEN_BYTES = [c.encode() for c in CHARS] + [
  b'',
  b'ab',
  b'bc',
  b'ca',
  b'aa',
  b'\xc3',
]
EOS = (90, 50, 51, 52)

CONFIG = ModelConfig(
  vocab_size=len(TOKEN_BYTES),
  num_layers=2,
  embed_dim=16,
  mlp_dim=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  tied_embeddings=False,
)
MODEL = Model(CONFIG)
SAMPLED = policies.Policy(temperature=1.2, top_k=30, top_p=0.95)
STRINGS = ('ab', 'zq', '3')


@pytest.fixture(scope='module')
def params():
  return MODEL.init(jax.random.key(1))


def requests(num, samples=3, longest=30):
  rng = np.random.default_rng(0)
  return [
    engine_lib.Request(
      problem_id=f'p{i}',
      prompt_ids=rng.integers(0, 90, rng.integers(1, longest)).tolist(),
      indices=range(samples),
    )
    for i in range(num)
  ]


def make(strings=STRINGS, **kwargs):
  shape = {
    'max_prompt_len': 30,
    'max_new_tokens': 12,
    'num_slots': 4,
    'steps_per_call': 3,
    'prefill_tokens': 64,
  }
  return engine_lib.Engine(
    MODEL,
    stops_lib.build(TOKEN_BYTES, EOS, strings),
    **shape | kwargs,
  )


@functools.cache
def plain(strings=STRINGS):
  """The engine that others are compared with, compiled once."""
  return make(strings)


def collect(engine, params, reqs, policy, **kwargs):
  out = engine.sample(params, reqs, policy, seed=7, iteration=2, **kwargs)
  return {(r.problem_id, r.index): r for r in out}


def assert_same(a, b):
  assert a.token_ids == b.token_ids
  assert a.finish == b.finish
  np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-5)


@pytest.mark.parametrize('policy', [policies.GREEDY, SAMPLED])
def test_equals_the_reference(params, policy):
  reqs = requests(5, longest=40)
  got = collect(make(max_prompt_len=40), params, reqs, policy)
  assert len(got) == 15
  finishes = set()
  for request in reqs:
    for index in request.indices:
      want = reference.sample(
        MODEL,
        params,
        problem_id=request.problem_id,
        prompt_ids=request.prompt_ids,
        index=index,
        policy=policy,
        max_new_tokens=12,
        seed=7,
        iteration=2,
        token_bytes=TOKEN_BYTES,
        eos_ids=EOS,
        strings=STRINGS,
      )
      assert_same(got[request.problem_id, index], want)
      finishes.add(want.finish)
  if policy is SAMPLED:
    assert finishes == {'eos', 'stop', 'length'}


@pytest.mark.parametrize(
  'shape',
  [
    {'segment_len': 8},
    {'num_slots': 1},
    {'steps_per_call': 50},
    {'prefill_tokens': 8},
    {'decode_attention': 'triton'},
    *cases.further(
      {'num_slots': 32},
      {'steps_per_call': 1},
      {'prefill_tokens': 500},
      {'prefixes': [[1, 2, 3]]},
    ),
  ],
  ids=str,
)
def test_samples_do_not_depend_on_the_shape(params, shape):
  reqs = requests(6)
  want = collect(plain(), params, reqs, SAMPLED)
  got = collect(make(**shape), params, reqs[::-1], SAMPLED)
  assert got.keys() == want.keys()
  for key in want:
    assert_same(got[key], want[key])


@pytest.mark.parametrize(
  ('attention', 'decoding'), [('xla', 'triton'), ('cudnn_interpreted', 'xla')]
)
def test_shared_prefixes_equal_the_reference(params, attention, decoding):
  a, b = [5, 6, 7, 8, 9], [5, 6, 1]
  reqs = [
    engine_lib.Request(
      problem_id=f'p{i}',
      prompt_ids=[*prefix, *range(i, 2 * i + 1)],
      indices=range(2),
    )
    for i, prefix in enumerate([a, b, a, [], b, a, []])
  ]
  engine = make(
    prefixes=[b, a, [5]],
    segment_len=8,
    prefill_attention=attention,
    decode_attention=decoding,
  )
  got = collect(engine, params, reqs, SAMPLED)
  assert engine.stats.shared == 3 * len(a) + 2 * len(b)
  want = collect(plain(), params, reqs, SAMPLED)
  assert got.keys() == want.keys()
  for key in want:
    assert_same(got[key], want[key])


def test_a_prompt_that_is_a_prefix_keeps_its_last_token(params):
  reqs = requests(1, longest=9)
  ids = reqs[0].prompt_ids
  engine = make(prefixes=[ids, ids[:-1]])
  got = collect(engine, params, reqs, SAMPLED)
  assert engine.stats.shared == len(ids) - 1
  for key, rollout in collect(plain(), params, reqs, SAMPLED).items():
    assert_same(got[key], rollout)


def test_samples_of_a_problem_differ_and_depend_on_every_part_of_the_key(
  params,
):
  engine, reqs = plain(()), requests(1, samples=6)
  got = collect(engine, params, reqs, SAMPLED)
  assert len({r.token_ids for r in got.values()}) == 6
  for other in ({'seed': 8, 'iteration': 2}, {'seed': 7, 'iteration': 3}):
    rollouts = list(engine.sample(params, reqs, SAMPLED, **other))
    assert not {r.token_ids for r in rollouts} & {
      r.token_ids for r in got.values()
    }


def test_nothing_compiles_after_warm_up(params):
  engine = make(segment_len=8, prefixes=[[1, 2], [3] * 7])
  engine.programs.compile()
  collect(engine, params, requests(2), SAMPLED)
  programs = len(engine.programs)
  # Two per bucket, one per number of segments; prefix, unstacking, slots.
  shape = engine.shape
  assert programs == 2 * len(shape.buckets) + len(shape.segment_lens) + 3
  other = policies.Policy(temperature=0.3, top_k=80, top_p=0.5)
  collect(engine, params, requests(4, 7), other, max_new_tokens=5)
  collect(engine, params, requests(4, 1), policies.GREEDY)
  assert len(engine.programs) == programs


def test_a_step_reads_only_the_segments_in_use(params):
  """The number of segments follows the longest row, K steps ahead."""
  engine = make(segment_len=8)
  assert engine.shape.segment_lens == (8, 8, 16, 32)
  request = engine_lib.Request(
    problem_id='p', prompt_ids=[1, 2, 3], indices=(0,)
  )
  collect(engine, params, [request], SAMPLED, max_new_tokens=12)
  used = [size for kind, size in engine.programs.compiled if kind == 'decode']
  assert sorted(used) in ([1], [1, 2])
  collect(engine, params, requests(3, longest=31), SAMPLED)
  used = [size for kind, size in engine.programs.compiled if kind == 'decode']
  assert max(used) == 4


def test_the_limit_is_kept(params):
  got = collect(plain(()), params, requests(3), SAMPLED, max_new_tokens=4)
  for rollout in got.values():
    assert len(rollout.token_ids) == 4 or rollout.finish == 'eos'


@pytest.mark.parametrize(
  ('ids', 'message'), [([], 'p9.*empty'), ([1] * 31, 'p9.*31 tokens.*30')]
)
def test_bad_prompts_are_named(params, ids, message):
  request = engine_lib.Request(problem_id='p9', prompt_ids=ids, indices=(0,))
  with pytest.raises(ValueError, match=message):
    collect(plain(), params, [request], SAMPLED)


def test_a_request_may_have_a_limit_of_its_own(params):
  a, b = requests(2)
  a = dataclasses.replace(a, max_new_tokens=3)
  got = collect(plain(()), params, [a, b], SAMPLED, max_new_tokens=7)
  for (problem_id, _), rollout in got.items():
    if rollout.finish == 'length':
      assert len(rollout.token_ids) == (3 if problem_id == 'p0' else 7)
    assert len(rollout.token_ids) <= (3 if problem_id == 'p0' else 7)
  with pytest.raises(ValueError, match='max_new_tokens=99'):
    a = dataclasses.replace(a, max_new_tokens=99)
    collect(plain(()), params, [a], SAMPLED)


def test_utilisation_is_counted(params):
  engine = make(())
  got = collect(engine, params, requests(8), SAMPLED)
  stats = engine.stats
  assert stats.tokens == sum(len(r.token_ids) for r in got.values())
  assert 0 < stats.queued_steps < stats.steps
  busy = stats.queued_tokens / (stats.queued_steps * engine.shape.num_slots)
  assert 0.7 < busy == stats.utilisation(engine.shape.num_slots) <= 1


@pytest.mark.slow('5 s each: compiles on a mesh')
@pytest.mark.parametrize('attention', ['xla', 'cudnn_interpreted'])
def test_sharded_equals_one_device(params, attention):
  mesh = partitioning.make_mesh(data=2, fsdp=2, tensor=2)
  shardings = partitioning.shardings(mesh, MODEL.logical_axes())
  reqs = requests(5)
  want = collect(plain(), params, reqs, SAMPLED)
  shape = {'prefixes': [reqs[0].prompt_ids[:4]], 'prefill_attention': attention}
  placed = jax.device_put(params, shardings)
  got = collect(make(mesh=mesh, **shape), placed, reqs, SAMPLED)
  for key in want:
    assert_same(got[key], want[key])


def test_int8_cache_is_close(params):
  reqs = requests(6)
  want = collect(plain(()), params, reqs, policies.GREEDY)
  got = collect(make((), kv_dtype='int8'), params, reqs, policies.GREEDY)
  first = [abs(want[k].logprobs[0] - got[k].logprobs[0]) for k in want]
  assert 0 < max(first) < 0.05
  alike = sum(want[k].token_ids == got[k].token_ids for k in want)
  assert alike > len(want) / 2


def test_logprobs_are_of_the_untempered_policy(params):
  request = requests(1, 1)[0]
  rollout = collect(plain(()), params, [request], SAMPLED)['p0', 0]
  ids = [*request.prompt_ids, *rollout.token_ids]
  logits = MODEL.forward(params, jnp.array([ids]))[0]
  logprobs = jax.nn.log_softmax(logits)[len(request.prompt_ids) - 1 : -1]
  want = logprobs[np.arange(len(rollout.token_ids)), rollout.token_ids]
  np.testing.assert_allclose(rollout.logprobs, want, atol=2e-5)


@st.composite
def small_models(draw):
  """A small network, an engine's shape, prompts with and without a prefix."""
  heads = draw(st.sampled_from([1, 2]))
  config = dataclasses.replace(
    CONFIG,
    num_kv_heads=heads,
    windows=draw(st.sampled_from([(0,), (4,), (0, 3)])),
    qk_norm=draw(st.booleans()),
    tied_embeddings=draw(st.booleans()),
  )
  ids = st.lists(st.integers(0, 89), min_size=1, max_size=12)
  prefixes = draw(st.lists(ids, max_size=2))
  prompts = [
    [*draw(st.sampled_from([[], *prefixes])), *draw(ids)]
    for _ in range(draw(st.integers(1, 4)))
  ]
  shape = {
    'num_slots': draw(st.integers(1, 5)),
    'steps_per_call': draw(st.integers(1, 5)),
    'prefill_tokens': draw(st.sampled_from([1, 64])),
    'segment_len': draw(st.sampled_from([4, 128])),
    'decode_attention': draw(st.sampled_from(['xla', 'triton'])),
  }
  return config, prefixes, prompts, shape, draw(st.booleans())


@pytest.mark.slow('40 s: each example compiles an engine of its own')
@hypothesis.given(small_models())
@hypothesis.settings(max_examples=8)
def test_any_small_model_equals_the_reference(case):
  config, prefixes, prompts, shape, greedy = case
  model = Model(config)
  params = networks.random_params(model)
  policy = policies.GREEDY if greedy else SAMPLED
  engine = engine_lib.Engine(
    model,
    stops_lib.build(TOKEN_BYTES, EOS, STRINGS),
    max_prompt_len=24,
    max_new_tokens=5,
    prefixes=prefixes,
    **shape,
  )
  reqs = [
    engine_lib.Request(problem_id=f'p{i}', prompt_ids=ids, indices=(0, 3))
    for i, ids in enumerate(prompts)
  ]
  got = collect(engine, params, reqs, policy)
  # The longest and the shortest: the oracle compiles for each length.
  for i in {min(range(len(prompts)), key=lambda i: len(prompts[i])), 0}:
    want = reference.sample(
      model,
      params,
      problem_id=f'p{i}',
      prompt_ids=prompts[i],
      index=3,
      policy=policy,
      max_new_tokens=5,
      seed=7,
      iteration=2,
      token_bytes=TOKEN_BYTES,
      eos_ids=EOS,
      strings=STRINGS,
    )
    assert_same(got[f'p{i}', 3], want)
  assert len(got) == 2 * len(prompts)


def test_nothing_is_kept_of_what_has_left(params):
  """Host memory stays flat: requests are read lazily, rollouts let go."""
  sample = functools.partial(
    plain(()).sample, params, policy=SAMPLED, seed=0, max_new_tokens=2
  )
  ahead = 0

  def stream(num):
    nonlocal ahead
    for i in range(num):
      ahead += 8
      yield engine_lib.Request(
        problem_id=f'p{i}', prompt_ids=[1, 2, i % 90], indices=range(8)
      )

  def run(num):
    """Most requests read ahead of the rollouts, and bytes held at the end."""
    nonlocal ahead
    ahead, most = 0, 0
    for _ in sample(stream(num)):
      ahead -= 1
      most = max(most, ahead)
    assert ahead == 0
    gc.collect()
    return most, tracemalloc.get_traced_memory()[0]

  for _ in sample(stream(1)):
    pass  # compiles, which takes three times as long when memory is traced
  tracemalloc.start()
  try:
    run(200)  # what JAX keeps of first calls
    short, long = run(20), run(200)
  finally:
    tracemalloc.stop()
  # Of 1,600 samples; a prefill batch is two prompts, 16 of them.
  assert long[0] <= max(short[0], 8 * 8)
  assert long[1] - short[1] < 100_000  # a list of 1,600 rollouts has 1 MB
