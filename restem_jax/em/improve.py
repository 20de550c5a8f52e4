"""M-step: fine-tune on the selected samples until validation reward stalls.

In: the examples of an iteration, initial parameters. Out: checkpoints, and
`improve.json` when they are final. What is *not* here: the step and the loop
(`training/`).
"""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from etils import epath
from jax.sharding import Mesh

from restem_jax import (
  checkpoints as checkpoints_lib,
  metrics,
  multihost,
  partitioning,
  shards,
)
from restem_jax.data import examples as examples_lib
from restem_jax.em import evaluate
from restem_jax.em.generate import ParamsFn, Sampler
from restem_jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What an M-step did; `improve.json`."""

  num_examples: int
  num_steps: int
  best_step: int
  validation_reward: float  # of the best step
  history: tuple[Mapping[str, Any], ...]  # {'epoch', 'step', 'reward'}


def read(directory: epath.Path) -> Outcome | None:
  """The outcome of a finished M-step, or None."""
  path = directory / 'improve.json'
  return _outcome(json.loads(path.read_text())) if path.exists() else None


def _outcome(row: Mapping[str, Any]) -> Outcome:
  fields: dict[str, Any] = dict(row) | {'history': tuple(row['history'])}
  return Outcome(**fields)


def improve(
  directory: epath.Path,
  dataset: epath.Path,
  sampler: Sampler,
  trainer: Trainer,
  init_params: ParamsFn,
  *,
  seed: int,
  iteration: int,
  metrics_dir: epath.Path,
  mesh: Mesh | None = None,
  frozen: ParamsFn | None = None,
  adapter: Mapping[str, Any] | None = None,
) -> Outcome:
  """Trains, unless that is done; resumes from the latest checkpoint.

  Args:
    directory: `iteration_XX/checkpoints`.
    dataset: ArrayRecord of the examples.
    sampler: measures the validation reward, with the E-step's engine; of
      several hosts, each on its own devices.
    trainer: how to train.
    init_params: gives the f32 parameters to start from, which are donated;
      with LoRA, the adapters.
    seed: of validation; greedy decoding draws nothing.
    iteration: part of the shuffles' seed.
    metrics_dir: gets loss and reward curves.
    mesh: where it trains; `init_params` are born there.
    frozen: with LoRA, gives the base weights.
    adapter: with LoRA, what checkpoints say of theirs (`checkpoints`).
  """
  what = f'iteration {iteration}: improve'

  def done() -> dict[str, Any] | None:
    if (outcome := read(directory)) is not None:
      # Killed before they were deleted?
      checkpoints_lib.drop_optimizer(directory)
      return dataclasses.asdict(outcome)
    shards.clean(directory, 'improve.json')
    return None

  if (row := multihost.first(what, done)) is not None:
    return _outcome(row)
  examples = examples_lib.read_examples(dataset)
  problems = sampler.task.problems('validation')
  checkpoints = checkpoints_lib.Checkpoints(directory, adapter)
  writer = metrics.NoWriter()
  if multihost.is_first():
    writer = metrics.Writer(metrics_dir, f'improve_{iteration:02d}')
  axes = sampler.model.logical_axes()

  def validate(params) -> float:
    if sampler.mesh is not None:
      params = partitioning.to_local(params, sampler.mesh, axes)
    return evaluate.reward(
      params, problems, sampler, seed=seed, iteration=iteration
    )

  try:
    history = trainer.fit(
      sampler.model,
      init_params,
      trainer.feed(examples, iteration),
      checkpoints,
      validate,
      writer,
      what,
      mesh,
      frozen,
    )
    best = checkpoints.best_step
    assert best is not None, history
  finally:
    checkpoints.close()
    writer.close()
  outcome = Outcome(
    num_examples=len(examples),
    num_steps=history[-1]['step'],
    best_step=best,
    validation_reward=max(h['reward'] for h in history),
    history=tuple(history),
  )

  def finish() -> None:
    text = json.dumps(dataclasses.asdict(outcome), indent=1)
    shards.write_atomic(directory / 'improve.json', text + '\n')
    # Last: until improve.json is there, a killed run goes on from them.
    checkpoints_lib.drop_optimizer(directory)

  multihost.barrier(f'{what}: all saved')
  multihost.first(f'{what}: done', finish)
  return outcome
