"""One process's work on a run: the stages of its iterations.

In: a `loop.System`. Out: the files of each stage under `model_dir/`. What is
*not* here: their order (`loop`), and how a stage works (its module).
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import json
import logging
from typing import TYPE_CHECKING

from etils import epath
from jax.sharding import Mesh

from restem_jax import multihost
from restem_jax.em import (
  evaluate,
  generate,
  improve,
  provenance,
  score,
  select,
  summary,
)
from restem_jax.em.generate import Sampler
from restem_jax.em.policy import Policies
from restem_jax.models.transformer import Params
from restem_jax.partitioning import MeshShape
from restem_jax.records import EvalReport

if TYPE_CHECKING:
  from restem_jax.em.loop import System

_log = logging.getLogger(__name__)

Reports = Mapping[str, EvalReport]


class Run:
  """One process's work on a run: what its stages share."""

  def __init__(self, system: 'System'):
    self.system = system
    self.directory = epath.Path(system.model_dir)
    self._policies = Policies(system.weights, system.dtype)
    provenance.check(
      self.directory,
      system.config_text,
      {
        **system.versions,
        **{
          f'grader of {task.name}': json.dumps(task.grader.describe())
          for task in (system.task, *system.eval_tasks)
        },
      },
      {
        f'problems of {task.name}': task.source.fingerprint()
        for task in (system.task, *system.eval_tasks)
      }
      | self._policies.fingerprints(),
    )
    if '://' not in system.model_dir:  # a bucket's files can't be appended to
      for task in (system.task, *system.eval_tasks):
        name = f'{task.name}-{multihost.index()}.jsonl'
        task.grader.remember(self.directory / 'memo' / name)
    problems = system.task.problems('train')
    if not problems:
      raise ValueError(f'{system.task.name} has no training problem')
    self._problems = problems
    cut = generate.chunks(problems, system.sampling.problems_per_shard)
    self._num_shards = len(cut)

  @functools.cached_property
  def samplers(self) -> dict[str, Sampler]:
    tasks = (self.system.task, *self.system.eval_tasks)
    return {
      task.name: Sampler(
        task,
        self._policies.model,
        self._policies.tokenizer,
        self.system.sampling,
        self.local_mesh,
      )
      for task in tasks
    }

  @property
  def sampler(self) -> Sampler:
    """Of the task that is trained on."""
    return self.samplers[self.system.task.name]

  def path(self, iteration: int, *parts: str) -> epath.Path:
    """A path under the iteration's folder."""
    return self.directory.joinpath(f'iteration_{iteration:02d}', *parts)

  @property
  def current(self) -> int:
    """The first iteration whose M-step has not ended."""

    def first_to_do() -> int:
      iteration = 1
      while improve.read(self.path(iteration, 'checkpoints')) is not None:
        iteration += 1
      return iteration

    return multihost.first('the iteration', first_to_do)

  @functools.cached_property
  def _mesh_shape(self) -> MeshShape | None:
    several = multihost.count() > 1
    return self.system.mesh or (MeshShape() if several else None)

  @functools.cached_property
  def mesh(self) -> Mesh | None:
    """Where an M-step runs: the devices of all hosts."""
    return self._mesh_shape and self._mesh_shape.make()

  @functools.cached_property
  def local_mesh(self) -> Mesh | None:
    """Where this host samples: its own devices."""
    return self._mesh_shape and self._mesh_shape.make_local()

  def params(self, iteration: int, mesh: Mesh | None) -> Params:
    """Parameters of an iteration's policy; 0 is the base model."""
    if iteration:
      return self._policies.restore(self.path(iteration, 'checkpoints'), mesh)
    return self._policies.base(mesh)

  # The stages of one iteration.

  def iterate(self, iteration: int) -> bool:
    """E- and M-step; False if there was nothing to train on."""
    if iteration >= self.current:
      self.generate(iteration, and_score=True)
      self.score(iteration)
      if not self.select(iteration).num_kept:
        return False
    self.improve(iteration)
    return True

  def generate(self, iteration: int, and_score: bool = False) -> None:
    """Samples; `and_score` grades each shard while the next are sampled."""
    directory = self.path(iteration, 'samples')
    with self._timed(iteration, 'generate'), contextlib.ExitStack() as stack:
      written = {}
      if and_score:
        written['written'] = stack.enter_context(
          score.in_background(
            directory, self._problems, self.system.task.grader
          )
        )
      generate.generate(
        directory,
        self._problems,
        self.sampler,
        lambda: self.params(iteration - 1, self.local_mesh),
        self.system.sampling.policy,
        num_samples=self.system.sampling.num_samples,
        seed=self.system.seed,
        iteration=iteration,
        what=f'iteration {iteration}: generate',
        **written,
      )

  def score(self, iteration: int) -> None:
    with self._timed(iteration, 'score'):
      again = score.score(
        self.path(iteration, 'samples'),
        self._problems,
        self._num_shards,
        self.system.task.grader,
        f'iteration {iteration}: score',
        self.system.log_samples,
      )
    chosen = self.path(iteration, 'dataset', 'select.json')
    if again and chosen.exists():
      _log.warning(
        'iteration %d: %d verdicts are new, and %s was made without them: it '
        'stays, with all that was made from it. To select anew, delete %s and '
        '%s',
        *(iteration, again, chosen, chosen.parent),
        self.path(iteration, 'checkpoints'),
      )

  def _select(self, iteration: int) -> select.Summary:
    directory = self.path(iteration, 'dataset')
    chosen = select.select(
      directory,
      score.read_scored(self.path(iteration, 'samples'), self._num_shards),
      self.sampler.prompt_ids(self._problems),
      self.system.selection,
      iteration,
    )
    mixed = directory / 'mixed.arrayrecord'
    mixture, tokenizer = self.system.mixture, self._policies.tokenizer
    if mixture and chosen.num_kept and not select.is_whole(mixed):
      mixture(
        directory / 'selected.arrayrecord',
        mixed,
        self.system.task.source,
        self.system.task.human_text(tokenizer),
        tokenizer,
        seed=self.system.selection.seed + iteration,
      )
    return chosen

  def select(self, iteration: int) -> select.Summary:
    with self._timed(iteration, 'select'):
      row = multihost.first(
        f'iteration {iteration}: select',
        lambda: dataclasses.asdict(self._select(iteration)),
      )
    chosen = select.Summary(**row)
    select.log(chosen, iteration)
    return chosen

  def improve(self, iteration: int) -> improve.Outcome:
    mixed = self.system.mixture is not None
    name = 'mixed.arrayrecord' if mixed else 'selected.arrayrecord'
    dataset = self.path(iteration, 'dataset', name)
    if not dataset.exists():
      raise ValueError(
        f'{dataset} is not there; run --run_mode=select first, and see its '
        'select.json if it kept nothing'
      )
    start = iteration - 1 if self.system.init == 'previous' else 0
    lora, adapted = self.system.trainer.lora, {}
    if lora is not None:
      adapted = {
        'frozen': lambda: self._policies.frozen(self.mesh),
        'adapter': self._policies.record(lora),
      }
    with self._timed(iteration, 'improve'):
      return improve.improve(
        self.path(iteration, 'checkpoints'),
        dataset,
        self.sampler,
        self.system.trainer,
        lambda: self._initial(start, iteration),
        seed=self.system.seed,
        iteration=iteration,
        metrics_dir=self.directory / 'metrics',
        mesh=self.mesh,
        **adapted,
      )

  def _initial(self, start: int, iteration: int) -> Params:
    """What an M-step trains: of the policy `start`, all or its adapters."""
    trainer = self.system.trainer
    if trainer.lora is None:
      return self.params(start, self.mesh)
    if start:  # the weights under them stay the base model's
      path = self.path(start, 'checkpoints')
      return self._policies.adapters(trainer.lora, path, self.mesh)
    return trainer.lora.init(
      self._policies.model,
      seed=trainer.seed,
      iteration=iteration,
      mesh=self.mesh,
    )

  def evaluate(self, iteration: int) -> Reports:
    """Test accuracy on every task; the base model's validation reward too."""
    with self._timed(iteration, 'evaluate'):
      return self._evaluate(
        self.path(iteration, 'eval'),
        lambda: self.params(iteration, self.local_mesh),
        iteration,
        f'iteration {iteration}: evaluate',
      )

  def evaluate_checkpoint(self, checkpoint: str) -> Reports:
    """Test accuracy of any checkpoint of this architecture."""
    name = evaluate.name_of(checkpoint)
    return self._evaluate(
      self.directory / 'evaluations' / name,
      lambda: self._policies.restore(checkpoint, self.local_mesh),
      0,
      f'evaluate {name}',
    )

  def _evaluate(self, directory, params_fn, iteration, what) -> Reports:
    params_fn = functools.cache(params_fn)  # for several tasks, loaded once
    reports: dict[str, EvalReport] = {}
    for task in (self.system.task, *self.system.eval_tasks):
      splits = ['test']
      if task is self.system.task:
        splits.append('validation')
      for split in splits:
        found = evaluate.evaluate(
          directory / f'{task.name}-{split}',
          split,
          task.problems(split),
          self.samplers[task.name],
          params_fn,
          seed=self.system.seed,
          iteration=iteration,
          what=f'{what} {task.name} {split}',
          log_samples=self.system.log_samples if split == 'test' else 0,
          sampled=self.system.sampled,
        )
        reports |= {f'{name}/{split}': r for name, r in found.items()}
    return reports

  # What the run adds up to.

  def _timed(self, iteration: int, stage: str):
    return summary.timed(self.directory, iteration, stage)

  def summarise(self) -> None:
    """Writes summary.json from what the stages have written."""
    summary.write(self.directory)

  def print_table(self) -> None:
    """The table of iterations."""
    summary.print_table(self.directory, self.system.task.name)
