import functools
import json

import jax
import numpy as np
import optax
import pytest

from restem_jax import checkpoints
from restem_jax.data.examples import write_examples
from restem_jax.em import evaluate, improve
from restem_jax.records import Example
from restem_jax.training import optimizers
from restem_jax.training.trainer import Trainer

TRAINER = Trainer(
  num_epochs=2,
  patience=2,
  batch_size=1,
  row_len=128,
  optimizer=optax.adamw,
  schedule=functools.partial(optimizers.warmup_cosine, peak=0.01),
)


@pytest.fixture
def dataset(directory, sampler):
  problems = sampler.task.problems('train')
  prompts = sampler.prompt_ids(problems)
  tokenizer = sampler.tokenizer
  path = directory / 'dataset' / 'selected.arrayrecord'
  write_examples(
    path,
    [
      Example(
        id=f'{p.id}#0',
        prompt_ids=prompts[p.id],
        target_ids=tuple(tokenizer.encode(f'{p.answer}\n')),
      )
      for p in problems
    ],
  )
  return path


def run(directory, dataset, sampler, init_params):
  return improve.improve(
    directory / 'checkpoints',
    dataset,
    sampler,
    TRAINER,
    init_params,
    seed=0,
    iteration=1,
    metrics_dir=directory / 'metrics',
  )


def never():
  raise AssertionError('the M-step has ended')


def test_improve(directory, dataset, sampler, make_params):
  outcome = run(directory, dataset, sampler, make_params)
  assert outcome.num_examples == len(sampler.task.problems('train'))
  assert [h['epoch'] for h in outcome.history] == [1, 2]
  assert outcome.num_steps == outcome.history[-1]['step']
  rewards = {h['step']: h['reward'] for h in outcome.history}
  assert outcome.validation_reward == max(rewards.values())
  assert outcome.validation_reward == rewards[outcome.best_step]
  # What is restored as the best has that validation reward.
  path = directory / 'checkpoints'
  best = checkpoints.restore_params(path, sampler.model.abstract_params())
  validation = sampler.task.problems('validation')
  found = evaluate.reward(best, validation, sampler, seed=0, iteration=1)
  assert found == outcome.validation_reward
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), best, make_params()
  )
  assert min(jax.tree.leaves(moved)) > 0
  lines = (directory / 'metrics' / 'improve_01.jsonl').read_text().splitlines()
  losses = [row['loss'] for row in map(json.loads, lines) if 'loss' in row]
  assert len(losses) == outcome.num_steps and losses[-1] < losses[0]

  # Nothing of the optimizer stays, and a second call reads the outcome.
  assert not list(path.glob('*/opt_state'))
  assert improve.read(path) == outcome
  assert run(directory, dataset, sampler, never) == outcome

  # A kill between the outcome and the end of the clean-up.
  (path / str(outcome.best_step) / 'opt_state' / 'd').mkdir(parents=True)
  assert run(directory, dataset, sampler, never) == outcome
  assert not list(path.glob('*/opt_state'))


def test_not_yet(directory):
  assert improve.read(directory / 'checkpoints') is None
