"""Runs that train LoRA adapters: resumed, evaluated, and where they start."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
import tiny

from restem_jax import checkpoints, main
from restem_jax.em import loop
from restem_jax.em.policy import Policies
from restem_jax.training import optimizers
from restem_jax.training.lora import Lora
from restem_jax.training.trainer import Trainer

pytestmark = pytest.mark.slow('20 s in all: a run with LoRA')
LORA = Lora(rank=4, alpha=8.0)
SWITCH = [
  '--gin_file=training/lora.gin',
  '--gin.lora.Lora.rank=4',
  '--gin.lora.Lora.alpha=8.0',
  '--gin.trainer.Trainer.save_every=2',
]


@pytest.fixture(scope='session')
def begin(undisturbed):
  """Makes a run that has selected its examples: so far, LoRA is no part."""

  def begin(folder):
    ignored = shutil.ignore_patterns('checkpoints', 'metrics', 'summary.json', 'config.gin')  # fmt: skip
    shutil.copytree(undisturbed[0], folder, ignore=ignored)
    shutil.rmtree(folder / 'iteration_01' / 'eval')
    return folder

  return begin


@pytest.fixture(scope='session')
def finished(tmp_path_factory, begin, flags):
  """A whole run with LoRA that nothing stopped."""
  folder = begin(tmp_path_factory.mktemp('lora') / 'run')
  assert main.main([*flags, *SWITCH, runs.in_folder(folder)]) == 0
  return folder


def best_step(folder):
  path = folder / 'iteration_01' / 'checkpoints'
  return path / str(
    json.loads((path / 'improve.json').read_text())['best_step']
  )


def report(folder, split='test'):
  path = folder / 'iteration_01' / 'eval' / f'jsonl-{split}' / 'report.json'
  return path.read_text()


def test_a_checkpoint_is_adapters_only(finished, sampler, model_path):
  step = best_step(finished)
  abstract = LORA.abstract(sampler.model)
  found = runs.arrays(checkpoints.restore_params(step, abstract))
  assert all(np.abs(x).max() > 0 for x in found.values())  # b has moved
  record = checkpoints.adapter_of(step)
  assert record is not None
  fingerprint = Policies(str(model_path), 'float32').fingerprints()['weights']
  assert record == {
    'rank': 4,
    'alpha': 8.0,
    'targets': ['q', 'k', 'v', 'o', 'gate', 'up', 'down'],
    'weights': str(model_path),
    'fingerprint': fingerprint,
  }
  # What was validated is what was evaluated.
  validated = json.loads((step.parent / 'improve.json').read_text())
  evaluated = json.loads(report(finished, 'validation'))['jsonl']
  assert evaluated['accuracy'] == validated['validation_reward']


@pytest.mark.slow('30 s: a start of the process for each kill')
def test_killed_and_resumed(tmp_path, begin, finished, flags, sampler):
  """In the middle of an epoch, at an epoch's end, and before the last file."""
  folder = begin(tmp_path / 'run')
  flags = [*flags, *SWITCH, runs.in_folder(folder)]
  for at, count in (('save', 1), ('save', 3), ('improve.json', 1)):
    ended = runs.command(flags, at=at, count=count)
    assert ended.returncode == -9, (at, ended.stderr)
  assert main.main(flags) == 0
  files = lambda path: runs.final_files(path, LORA.abstract(sampler.model))
  runs.check_same(files(folder), files(finished))


def test_a_checkpoint_finds_its_base(
  tmp_path, flags, finished, model_path, capsys
):
  """By the recipe's weights, else by what the checkpoint says of its own."""
  trained = finished / 'iteration_01' / 'checkpoints'

  def evaluate(name, weights, checkpoint=trained):
    code = main.main(
      [
        *flags,
        runs.in_folder(tmp_path / name),
        f'--gin.WEIGHTS={str(weights)!r}',
        f'--gin.CHECKPOINT={str(checkpoint)!r}',
        '--run_mode=evaluate',
      ]
    )
    found = (tmp_path / name).glob('evaluations/*/jsonl-test/report.json')
    return code, [path.read_text() for path in found]

  assert evaluate('own', model_path) == (0, [report(finished)])
  # Another model of the same architecture, and the same tokenizer.
  other = tmp_path / 'other'
  tiny.write_tiny_hf_model(other, seed=1, tie_word_embeddings=False)
  assert evaluate('others', other) == (0, [report(finished)])
  capsys.readouterr()

  def refused(name, **changes):
    copy = tmp_path / name
    shutil.copytree(best_step(finished), copy)
    shutil.rmtree(copy / 'sums')  # or it is damaged
    path = copy / 'adapter' / 'metadata'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert evaluate(name + '_run', other, copy) == (2, [])
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith('error: ')]  # fmt: skip
    assert f'{copy} is an adapter' in line
    return line

  assert 'they were /gone' in refused('gone', weights='/gone')
  assert 'have changed since' in refused('changed', fingerprint='00')


@pytest.mark.slow('5 s each: an M-step and its loading')
@pytest.mark.parametrize('init', ['base', 'previous'])
def test_where_an_m_step_starts(
  tmp_path, init, finished, model_path, problem_task, sampling, sampler
):
  """With a learning rate of 0 it ends where it starts."""
  first = shutil.copytree(finished / 'iteration_01', tmp_path / 'iteration_01')
  shutil.copytree(first / 'dataset', tmp_path / 'iteration_02' / 'dataset')
  rate = functools.partial(optimizers.constant, value=0.0)
  system = loop.System(
    model_dir=str(tmp_path),
    weights=str(model_path),
    task=problem_task,
    sampling=sampling,
    dtype='float32',
    trainer=Trainer(
      num_epochs=1,
      row_len=128,
      optimizer=optax.sgd,
      schedule=rate,
      lora=LORA,
      seed=5,
    ),
    init=init,
  )
  system.improve()
  abstract = LORA.abstract(sampler.model)
  last, previous = (
    checkpoints.restore_params(tmp_path / i / 'checkpoints', abstract)
    for i in ('iteration_02', 'iteration_01')
  )
  expected = previous
  if init == 'base':
    expected = LORA.init(sampler.model, seed=5, iteration=2)
  assert jax.tree.all(jax.tree.map(np.array_equal, last, expected))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_what_is_validated_is_what_is_restored(finished, model_path, dtype):
  """Bit for bit, in the compute dtype; in f32, the sum by hand."""
  policies = Policies(str(model_path), dtype)
  step = best_step(finished)
  adapters = policies.adapters(LORA, step)
  frozen = policies.frozen()
  assert {x.dtype for x in jax.tree.leaves(frozen)} == {jnp.dtype(dtype)}
  merged = LORA.merged(policies.model, frozen, adapters)
  restored = policies.restore(step)
  assert jax.tree.all(jax.tree.map(np.array_equal, restored, merged))
  if dtype == 'float32':
    up = adapters['layers']['mlp']['up']
    expected = policies.base()['layers']['mlp']['up'] + 2 * up['a'] @ up['b']
    found = restored['layers']['mlp']['up']
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_another_rank_is_another_run(finished, flags, capsys):
  flags = [*flags, *SWITCH, runs.in_folder(finished), '--gin.lora.Lora.rank=2']
  assert main.main(flags) == 2
  assert '+lora.Lora.rank = 2' in capsys.readouterr().err


def test_the_record_holds_all_of_lora():
  """`Policies.restore` makes a Lora of it."""
  names = {field.name for field in dataclasses.fields(Lora)}
  assert names == {'rank', 'alpha', 'targets'}
