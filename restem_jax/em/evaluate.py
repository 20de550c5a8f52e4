"""Accuracy of a policy on the problems of a split.

In: problems, the policy's parameters. Out: samples and verdicts of every
problem (the same shards as the E-step's) and `report.json`. What is *not*
here: training, pass@k.

Greedy by default, as the paper evaluates (arXiv 2312.06585 §5, figure 2).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json

from etils import epath

from restem_jax import shards
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
  if not path.exists():
    shards.clean(directory)
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
    verdicts = {
      s.sample.problem_id: s.verdict
      for s in score.read_scored(directory, num_shards)
    }
    reports = _by_task(sampler.task.name, split, problems, verdicts)
    rows = {name: dataclasses.asdict(r) for name, r in reports.items()}
    shards.write_atomic(path, json.dumps(rows, indent=1) + '\n')
  return {
    name: from_dict(EvalReport, row)
    for name, row in json.loads(path.read_text()).items()
  }


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
  """Mean greedy reward in [0, 1], in memory: the M-step's validation."""
  samples = sampler.sample(
    params, problems, GREEDY, num_samples=1, seed=seed, iteration=iteration
  )
  by_id = {p.id: p for p in problems}
  verdicts = score.grade(list(samples), by_id, sampler.task.grader)
  return sum(v.reward for v in verdicts) / max(1, len(problems))
