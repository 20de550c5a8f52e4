"""What fits: on the devices of the tests, and on a TPU that isn't here."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from restem_jax.em import hardware, hlo, precompile
from restem_jax.em.generate import Sampling
from restem_jax.models.config import ModelConfig
from restem_jax.partitioning import MeshShape
from restem_jax.training.trainer import Trainer

SETUP = precompile.Setup(
  config=ModelConfig(
    vocab_size=1024,
    num_layers=4,
    embed_dim=256,
    mlp_dim=512,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
  ),
  trainer=Trainer(batch_size=16, num_microbatches=2, remat='full'),
  sampling=Sampling(num_slots=16, steps_per_call=4, prefill_tokens=128),
  mesh=MeshShape(data=1, fsdp=-1),
  max_prompt_len=128,
  max_new_tokens=100,
)


def test_a_row_holds_the_longest_example():
  assert SETUP.row_len == 256
  trainer = dataclasses.replace(SETUP.trainer, row_len=512)
  assert dataclasses.replace(SETUP, trainer=trainer).row_len == 512


def test_rows_that_do_not_divide():
  trainer = Trainer(batch_size=12, num_microbatches=3)
  setup = dataclasses.replace(SETUP, trainer=trainer)
  reports = precompile.check(setup, hardware.target('local'))
  with pytest.raises(ValueError, match=r'4 rows .* 8 devices.*batch_size=24'):
    next(reports)


@pytest.mark.slow('10 s: compiles all programs of a recipe')
def test_the_local_devices():
  target = hardware.target('local')
  reports = list(precompile.check(SETUP, target))
  names = [r.program.split()[0] for r in reports]
  assert names == ['train', 'prefill', 'decode']
  train, _, decode = reports
  # float32 on CPUs: weights, two moments; donated, so held once.
  assert train.held['weights'] == 4 * SETUP.config.num_params / 8
  assert train.used > train.held['weights'] + train.held['optimizer']
  assert all(r.fits and r.available is None for r in reports)
  assert train.cost.flops == pytest.approx(4 / 3 * train.model_flops, rel=0.2)
  text = precompile.text_of(decode)
  assert 'of an unknown amount' in text and 'cache' in text
  assert 'estimate' not in text  # nobody knows the peak of this device


def test_a_tpu_that_is_not_here():
  """The real programs by the real compiler; sums against the formula."""
  reason = "libtpu is missing: pip install 'restem_jax[tpu]'"
  pytest.importorskip('libtpu', reason=reason)
  train, prefill, decode = precompile.check(SETUP, hardware.target('v5e:2x2'))
  assert train.mesh == 'data=1, fsdp=4, tensor=1'
  assert prefill.mesh == decode.mesh == 'data=1, fsdp=1, tensor=4'
  for report in (train, prefill, decode):
    assert report.fits and report.available == 16 * 2**30
    assert report.cost and not report.cost.unknown_loops
    assert 0 < report.mfu < 1
    assert 'estimate' in precompile.text_of(report)
  c, tokens = SETUP.config, 16 * 256 / 4
  # Full attention, not the causal half; all computed again but `down` and head.
  attention = 4 * c.num_layers * c.num_heads * c.head_dim * 256
  layer = train.model_flops / 3 / tokens + attention / 2
  down = 2 * c.num_layers * c.mlp_dim * c.embed_dim
  # The backward kernels compute logits twice more, and one gradient twice.
  head = 2 * c.vocab_size * c.embed_dim
  want = tokens * (4 * layer - down - head + 3 / 2 * attention)
  np.testing.assert_allclose(train.cost.flops, want, rtol=0.05)
  assert train.cost.kernel_flops > tokens * 11 / 2 * attention
  np.testing.assert_allclose(decode.cost.flops, decode.model_flops, rtol=0.1)


def test_tables_of_attention_that_a_chip_has_no_room_for():
  reason = "libtpu is missing: pip install 'restem_jax[tpu]'"
  pytest.importorskip('libtpu', reason=reason)
  config = dataclasses.replace(
    SETUP.config, num_layers=1, num_heads=64, num_kv_heads=64
  )
  trainer = Trainer(batch_size=16, row_len=2048, remat='full')
  setup = dataclasses.replace(SETUP, config=config, trainer=trainer)
  reports = precompile.check(setup, hardware.target('v5e:2x2'))
  words = r'^train step for v5e:2x2: .*M of scalar memory; lower .*batch_size'
  with pytest.raises(ValueError, match=words):
    next(reports)


def test_a_tpu_does_not_copy_its_cache():
  reason = "libtpu is missing: pip install 'restem_jax[tpu]'"
  pytest.importorskip('libtpu', reason=reason)
  config = dataclasses.replace(
    SETUP.config, num_layers=2, num_kv_heads=8, head_dim=128
  )
  setup = dataclasses.replace(
    SETUP,
    config=config,  # 2 kv heads on each of 4 chips
    sampling=dataclasses.replace(SETUP.sampling, num_slots=64),
    max_prompt_len=512,
    max_new_tokens=512,
  )
  target = hardware.target('v5e:2x2')
  _, decode = precompile.check(setup, target, train=False)
  # A copy of one segment of keys would be an eighth.
  assert decode.temp < decode.held['cache'] / 16


def test_time_is_that_of_the_slowest():
  chip = hardware.Chip(
    name='toy', hbm=1e9, peak=1e12, hbm_rate=1e9, wire_rate=1e8, clock=1e6
  )
  cost = hlo.Cost(cycles=2e6, uncosted_bytes=1e9, async_wire_bytes=1e8)
  assert precompile.time_of(cost, chip) == 3  # 2 s and 1 s; wires beside it
  cost = dataclasses.replace(cost, async_wire_bytes=5e8, sync_wire_bytes=2e8)
  assert precompile.time_of(cost, chip) == 7  # 5 s of wires, 2 s of waiting
  cost = dataclasses.replace(cost, kernel_flops=4e12)
  assert precompile.time_of(cost, chip) == 9  # 7 s of computing


# The two forms in which the TPU's compiler finds no room.
TOO_LARGE = (
  'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.30G of '
  '15.75G hbm. Exceeded hbm capacity by 4.55G.'
)
TEMPORARIES = (
  'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for '
  'HLO temporaries (17.30G) exceeds available HBM (15.75G).'
)


class Refused:
  def __init__(self, message):
    self.message = message

  def compile(self):
    raise jax.errors.JaxRuntimeError(self.message)


def program(name='train step', message=TOO_LARGE, **held):
  mesh = MeshShape(data=1, fsdp=-1).make()
  gib = {k: v * 2**30 for k, v in held.items()}
  return types.SimpleNamespace(
    name=name,
    lowered=Refused(message),
    mesh=mesh,
    held=gib,
    tokens=1,
    model_flops=1.0,
  )


@pytest.mark.parametrize('message', [TOO_LARGE, TEMPORARIES])
def test_by_how_much_it_does_not_fit(message):
  report = precompile._report(
    program(message=message, weights=1.0, optimizer=2.0),
    SETUP,
    hardware.target('local'),
  )
  text = precompile.text_of(report)
  assert '20.30 GiB of 15.75 GiB: does NOT fit, by 4.55 GiB' in text
  assert 'to make it fit: write' in text


def test_a_bug_of_the_compiler_is_no_lack_of_memory():
  broken = program(message='INTERNAL: RET_CHECK failure')
  with pytest.raises(jax.errors.JaxRuntimeError, match='RET_CHECK'):
    precompile._report(broken, SETUP, hardware.target('local'))


@pytest.mark.parametrize(
  ('name', 'held', 'trainer', 'words'),
  [
    ('train step', (9, 18), {}, 'take more chips'),
    ('train step', (1, 2), {'remat': 'none'}, 'Trainer.remat="\'full\'"'),
    ('train step', (1, 2), {'batch_size': 32}, 'num_microbatches=4'),
    ('train step', (1, 2), {}, 'MeshShape.tensor=2'),
    ('decode', (15,), {}, 'more devices on the tensor axis'),
  ],
)
def test_advice(name, held, trainer, words):
  names = ('weights', 'optimizer')
  held = dict(zip(names, held, strict=False))
  setup = dataclasses.replace(
    SETUP, trainer=dataclasses.replace(SETUP.trainer, **trainer)
  )
  gib = 2**30
  text = precompile.advice(program(name, **held), setup, 20 * gib, 16 * gib)
  assert words in text


def test_advice_for_sampling_is_what_fits():
  decode = program('decode', weights=4.0, cache=3.0)
  gib = 2**30
  text = precompile.advice(decode, SETUP, 20 * gib, 12 * gib)
  assert text.endswith('num_slots=7')  # 0.9 * 16 * 8 / 16
  prefill = program('prefill', weights=4.0)
  text = precompile.advice(prefill, SETUP, 20 * gib, 12 * gib)
  assert text.endswith('prefill_tokens=128')
