"""Accuracy of a policy on the problems of a split.

In: problems, the policy's parameters. Out: samples and verdicts of every
problem (the same shards as the E-step's) and `report.json`. What is *not*
here: training, votes (`sampled`).

Greedy by default, as the paper evaluates (arXiv 2312.06585 §5, figure 2); with
a `SampledEvaluation` also pass@k and maj@k, from samples in a folder below.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import logging
from typing import Any

from etils import epath

from restem_jax import checkpoints, multihost, shards
from restem_jax.em import generate, sampled as sampled_lib, score, statistics
from restem_jax.em.generate import ParamsFn, Sampler
from restem_jax.em.sampled import SampledEvaluation
from restem_jax.models.transformer import Params
from restem_jax.records import (
  EvalReport,
  from_dict,
  GRADER_ERROR,
  Problem,
  SampledReport,
  Verdict,
)
from restem_jax.sampling.policies import GREEDY, Policy

_log = logging.getLogger(__name__)

GREEDY_ONLY = SampledEvaluation()


def report(
  task: str,
  split: str,
  verdicts: Iterable[Verdict],
  num_problems: int,
  sampled: SampledReport | None = None,
) -> EvalReport:
  """Sums verdicts up. A problem without a verdict (too long) counts wrong."""
  reasons = Counter(v.counted_as for v in verdicts)
  num_correct = reasons['correct']
  if (left_out := num_problems - reasons.total()) > 0:
    reasons['left_out'] = left_out
  return EvalReport(
    task=task,
    split=split,
    num_problems=num_problems,
    num_correct=num_correct,
    accuracy=num_correct / max(1, num_problems),
    interval=statistics.wilson_interval(num_correct, num_problems),
    reasons=dict(sorted(reasons.items())),
    num_timeouts=reasons['timeout'],
    num_grader_errors=reasons[GRADER_ERROR],
    sampled=sampled,
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
  sampled: SampledEvaluation = GREEDY_ONLY,
) -> dict[str, EvalReport]:
  """Greedy accuracy, in all and by the task that each problem names.

  Args:
    directory: gets the shards and `report.json`; if the report is there,
      holds what is asked for and counts no grader errors, it is read and
      nothing else happens. Grader errors are graded again.
    split: for the report.
    problems: of one task.
    sampler: prompts and engine of that task.
    params_fn: gives the policy's parameters; called only if needed.
    seed: of the draws, recorded with the samples; greedy decoding has none.
    iteration: whose policy it is; 0 is the base model.
    what: names the work in logs and progress bars.
    log_samples: so many right and wrong answers are logged.
    sampled: whether and how to sample, too.

  Returns:
    The task's name, and if its problems name several tasks each of those,
    -> report.
  """
  path = directory / 'report.json'
  wanted = sampled if split in sampled.splits else GREEDY_ONLY
  many = directory / wanted.folder

  def is_done() -> bool:
    if not _holds(path, wanted):
      shards.clean(directory)
      if wanted.num_samples:
        shards.clean(many)
      return False
    return True

  if not multihost.first(what, is_done):
    draw = functools.partial(
      _draw,
      problems=problems,
      sampler=sampler,
      params_fn=params_fn,
      seed=seed,
      iteration=iteration,
      what=what,
    )
    draw(directory, GREEDY, 1, log_samples=log_samples)
    if wanted.num_samples:
      draw(many, wanted.policy, wanted.num_samples)

  def rows() -> dict[str, Any]:
    if _holds(path, wanted):
      return json.loads(path.read_text())
    cut = generate.chunks(problems, sampler.sampling.problems_per_shard)
    greedy = _verdicts(directory, len(cut))
    tallies = None
    if wanted.num_samples:
      drawn, grader = _verdicts(many, len(cut)), sampler.task.grader
      tallies = {
        p.id: sampled_lib.tally(drawn.get(p.id, ()), wanted, grader)
        for p in problems
      }
    reports = {}
    for task, ids in _by_task(sampler.task.name, problems).items():
      summed = None
      if tallies is not None:
        summed = sampled_lib.report((tallies[i] for i in ids), wanted)
      verdicts = (v for i in ids for v in greedy.get(i, ()))
      reports[task] = report(task, split, verdicts, len(ids), summed)
    found = {name: dataclasses.asdict(r) for name, r in reports.items()}
    shards.write_atomic(path, json.dumps(found, indent=1) + '\n')
    return json.loads(path.read_text())

  return _reports(multihost.first(f'{what}: report', rows))


def _reports(rows: Mapping[str, Any]) -> dict[str, EvalReport]:
  return {name: from_dict(EvalReport, row) for name, row in rows.items()}


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


def _holds(path: epath.Path, wanted: SampledEvaluation) -> bool:
  """Whether a report is there, with these samples if any are wanted.

  One that counts grader errors is not: they may not recur.
  """
  if not path.exists():
    return False
  reports = _reports(json.loads(path.read_text())).values()
  if any(r.num_grader_errors for r in reports):
    return False
  if not wanted.num_samples:
    return True
  nothing = sampled_lib.report([], wanted)
  return all(
    r.sampled is not None
    and not r.sampled.num_grader_errors
    and r.sampled.pass_at.keys() == nothing.pass_at.keys()
    and all(
      getattr(r.sampled, name) == getattr(nothing, name)
      for name in ('num_samples', 'temperature', 'top_k', 'top_p')
    )
    for r in reports
  )


def _draw(
  directory: epath.Path,
  policy: Policy,
  num_samples: int,
  *,
  problems: Sequence[Problem],
  sampler: Sampler,
  params_fn: ParamsFn,
  seed: int,
  iteration: int,
  what: str,
  log_samples: int = 0,
) -> None:
  """Samples and grades what is not on disk."""
  grader = sampler.task.grader
  with score.in_background(directory, problems, grader) as written:
    generate.generate(
      directory,
      problems,
      sampler,
      params_fn,
      policy,
      num_samples=num_samples,
      seed=seed,
      iteration=iteration,
      what=what,
      written=written,
    )
  num_shards = len(
    generate.chunks(problems, sampler.sampling.problems_per_shard)
  )
  score.score(
    directory, problems, num_shards, grader, f'{what}: score', log_samples
  )


def _verdicts(
  directory: epath.Path, num_shards: int
) -> Mapping[str, Sequence[Verdict]]:
  """Verdicts by problem, in order of the sample index."""
  out: dict[str, list[Verdict]] = {}
  for s in score.read_scored(directory, num_shards):
    out.setdefault(s.sample.problem_id, []).append(s.verdict)
  return out


def _by_task(name: str, problems: Sequence[Problem]) -> dict[str, list[str]]:
  """Ids of all problems, and if they name several tasks of each of those."""
  groups = {name: [p.id for p in problems]}
  tasks = sorted({p.task for p in problems if p.task} - {name})
  if len(tasks) > 1:
    for task in tasks:
      groups[task] = [p.id for p in problems if p.task == task]
  return groups


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
  verdicts = list(score.grade(list(samples), by_id, sampler.task.grader))
  if failures := [v.failure for v in verdicts if v.failure]:
    _log.warning(
      'validation reward: the grader failed on %d of %d answers, which count 0 '
      '(%s)',
      *(len(failures), len(verdicts), failures[0]),
    )
  rewards = sum(v.reward for v in verdicts)
  each = multihost.gather('validation reward', rewards)
  return sum(each) / max(1, len(problems))
