"""Accuracy of a policy on the problems of a split.

In: problems, the policy's parameters. Out: samples and verdicts of every
problem (the same shards as the E-step's) and `report.json`. What is *not*
here: training, pass@k.

Greedy by default, as the paper evaluates (arXiv 2312.06585 §5, figure 2).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import json
from typing import Any

from etils import epath

from restem_jax import checkpoints, multihost, shards
from restem_jax.em import generate, score, statistics
from restem_jax.em.generate import ParamsFn, Sampler
from restem_jax.models.transformer import Params
from restem_jax.records import EvalReport, from_dict, Problem, Verdict
from restem_jax.sampling.policies import GREEDY


def report(
  task: str, split: str, verdicts: Iterable[Verdict], num_problems: int
) -> EvalReport:
  """Sums verdicts up. A problem without a verdict (too long) counts wrong."""
  reasons = Counter(v.reason for v in verdicts)
  num_correct = reasons['correct']
  if (left_out := num_problems - reasons.total()) > 0:
    reasons['error'] += left_out
  return EvalReport(
    task=task,
    split=split,
    num_problems=num_problems,
    num_correct=num_correct,
    accuracy=num_correct / max(1, num_problems),
    interval=statistics.wilson_interval(num_correct, num_problems),
    reasons=dict(sorted(reasons.items())),
  )


def evaluate(
  directory: epath.Path,
  split: str,
  problems: Sequence[Problem],
  sampler: Sampler,
  params_fn: ParamsFn,
  *,
  seed: int,
  iteration: int,
  what: str,
  log_samples: int = 0,
) -> dict[str, EvalReport]:
  """Greedy accuracy, in all and by the task that each problem names.

  Args:
    directory: gets the shards and `report.json`; if the report is there, it
      is read and nothing else happens.
    split: for the report.
    problems: of one task.
    sampler: prompts and engine of that task.
    params_fn: gives the policy's parameters; called only if needed.
    seed: recorded with the samples; greedy decoding draws nothing.
    iteration: whose policy it is; 0 is the base model.
    what: names the work in logs and progress bars.
    log_samples: so many right and wrong answers are logged.

  Returns:
    The task's name, and if its problems name several tasks each of those,
    -> report.
  """
  path = directory / 'report.json'

  def is_done() -> bool:
    if not path.exists():
      shards.clean(directory)
    return path.exists()

  if not multihost.first(what, is_done):
    grader = sampler.task.grader
    with score.in_background(directory, problems, grader) as written:
      generate.generate(
        directory,
        problems,
        sampler,
        params_fn,
        GREEDY,
        num_samples=1,
        seed=seed,
        iteration=iteration,
        what=what,
        written=written,
      )
    num_shards = len(
      generate.chunks(problems, sampler.sampling.problems_per_shard)
    )
    score.score(
      directory,
      problems,
      num_shards,
      grader,
      f'{what}: score',
      log_samples,
    )

  def rows() -> dict[str, Any]:
    if path.exists():
      return json.loads(path.read_text())
    verdicts = {
      s.sample.problem_id: s.verdict
      for s in score.read_scored(directory, num_shards)
    }
    reports = _by_task(sampler.task.name, split, problems, verdicts)
    report = {name: dataclasses.asdict(r) for name, r in reports.items()}
    shards.write_atomic(path, json.dumps(report, indent=1) + '\n')
    return json.loads(path.read_text())

  found = multihost.first(f'{what}: report', rows)
  return {name: from_dict(EvalReport, row) for name, row in found.items()}


def name_of(checkpoint: str) -> str:
  """A folder's name for the evaluation of any checkpoint."""
  path = checkpoints.params_path(checkpoint)
  step = epath.Path(checkpoint) if path is None else path.parent
  step = step.resolve()
  # All runs name their folders alike, and one may be trained anew under its
  # old name: the whole path and the time of saving keep them apart.
  saved = step / '_CHECKPOINT_METADATA'
  key = str(step).encode() + (saved.read_bytes() if saved.exists() else b'')
  digest = hashlib.sha256(key).hexdigest()[:8]
  return '-'.join([*step.parts[-3:], digest]).strip('/')


def _by_task(
  name: str,
  split: str,
  problems: Sequence[Problem],
  verdicts: Mapping[str, Verdict],
) -> dict[str, EvalReport]:
  groups: dict[str, list[str]] = {name: [p.id for p in problems]}
  tasks = sorted({p.task for p in problems if p.task} - {name})
  if len(tasks) > 1:
    for task in tasks:
      groups[task] = [p.id for p in problems if p.task == task]
  return {
    task: report(
      task, split, (verdicts[i] for i in ids if i in verdicts), len(ids)
    )
    for task, ids in groups.items()
  }


def reward(
  params: Params,
  problems: Sequence[Problem],
  sampler: Sampler,
  *,
  seed: int,
  iteration: int,
) -> float:
  """Mean greedy reward in [0, 1], in memory: the M-step's validation.

  `params` lie on each host's own devices, and each takes its share.
  """
  share = multihost.share(problems)
  samples = sampler.sample(
    params, share, GREEDY, num_samples=1, seed=seed, iteration=iteration
  )
  by_id = {p.id: p for p in share}
  verdicts = score.grade(list(samples), by_id, sampler.task.grader)
  rewards = sum(v.reward for v in verdicts)
  each = multihost.gather('validation reward', rewards)
  return sum(each) / max(1, len(problems))
