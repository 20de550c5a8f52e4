"""E-step, second half: a 0/1 reward and a reason for every sample.

In: sample shards. Out: `verdicts-<chunk>.jsonl` beside them, one row per
sample in the same order. What is *not* here: how an answer is judged
(`rewards/`).

Where the grader itself failed (a server that was down), the verdict says
nothing of the sample: a shard that holds such verdicts is complete but not
final, and those samples are graded again whenever the stage is run again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import itertools
import logging

from etils import epath

from restem_jax import metrics, multihost, shards
from restem_jax.em.generate import shard_path
from restem_jax.records import (
  from_dict,
  Problem,
  Sample,
  Scored,
  to_json,
  Verdict,
)
from restem_jax.rewards import base
from restem_jax.rewards.base import Grader

_log = logging.getLogger(__name__)


def grade(
  samples: Sequence[Sample], problems: Mapping[str, Problem], grader: Grader
) -> Iterator[Verdict]:
  """One verdict per sample; a rollout cut at the length limit is not graded.

  "Hit the length limit" is a state, never a reward: what such a text would go
  on to say is not known.
  """
  ended = ((problems[s.problem_id], s.text) for s in samples
           if s.finish != 'length')  # fmt: skip
  verdicts = grader.grade(ended)
  for sample in samples:
    if sample.finish == 'length':
      yield base.verdict('truncated')
    else:
      yield next(verdicts)


def score(
  directory: epath.Path,
  problems: Sequence[Problem],
  num_shards: int,
  grader: Grader,
  what: str,
  log_samples: int = 0,
) -> int:
  """Completes the verdict shards of `directory`; hosts share them out.

  Args:
    directory: holds the sample shards.
    problems: those that were sampled.
    num_shards: how many sample shards there are when generation is complete.
    grader: judges completions.
    what: names the work in logs and progress bars.
    log_samples: so many right and so many wrong samples are logged.

  Returns:
    How many verdicts this host replaced that the grader had failed to give,
    and gave now.

  Raises:
    ValueError: a sample shard is missing or damaged.
  """
  by_id = {p.id: p for p in problems}

  def incomplete() -> list[int]:
    shards.clean(directory, 'verdicts-*')
    return [
      c
      for c in range(num_shards)
      if not _is_final(_verdicts(shard_path(directory, 'verdicts', c)))
    ]

  # All have sampled, and written the verdicts that they had under way.
  multihost.barrier(f'{what}: all sampled')
  todo = multihost.share(multihost.first(what, incomplete))
  again = 0
  with metrics.progress(what, len(todo)) as bar:
    for c in todo:
      bar.advance()
      again += _score_shard(directory, c, by_id, grader)
  multihost.barrier(f'{what}: all scored')
  if log_samples and multihost.is_first():
    _show(directory, by_id, num_shards, log_samples, what)
  return again


def _verdicts(path: epath.Path) -> list[Verdict] | None:
  """The verdicts of a shard; None if it is not complete."""
  if not path.exists() or shards.status(path) != 'complete':
    return None
  return [from_dict(Verdict, row) for row in shards.read_shard(path)]


def _is_final(verdicts: Sequence[Verdict] | None) -> bool:
  return verdicts is not None and not any(v.failure for v in verdicts)


def _score_shard(directory, chunk: int, by_id, grader: Grader) -> int:
  """Writes the verdicts of one sample shard, unless they are there.

  Returns how many of them replace a grader's failure.
  """
  path = shard_path(directory, 'verdicts', chunk)
  known = _verdicts(path)
  if _is_final(known):
    return 0
  source = shard_path(directory, 'samples', chunk)
  if shards.status(source) != 'complete':
    raise ValueError(f'{source} is not complete; run --run_mode=generate first')
  samples = [from_dict(Sample, row) for row in shards.read_shard(source)]
  if known is None:
    shards.write_shard(path, map(to_json, grade(samples, by_id, grader)))
    return 0
  failed = [i for i, v in enumerate(known) if v.failure]
  found = list(grade([samples[i] for i in failed], by_id, grader))
  left = [v.failure for v in found if v.failure]
  _log.info(
    '%s: %d verdicts that the grader had failed to give, graded again: %d '
    'given%s',
    *(path, len(failed), len(failed) - len(left)),
    f'; the others fail still ({left[0]})' if left else '',
  )
  if len(left) == len(failed):
    return 0
  for i, verdict in zip(failed, found, strict=True):
    known[i] = verdict
  shards.write_shard(path, map(to_json, known))
  return len(failed) - len(left)


@contextlib.contextmanager
def in_background(
  directory: epath.Path, problems: Sequence[Problem], grader: Grader
) -> Iterator[Callable[[int], None]]:
  """Scores shards while the engine samples the next ones.

  Yields a function to call with the number of a shard that is on disk; the
  graders' work is in their own processes, this thread mostly waits. Leaving
  the context waits for all shards named. What waits is a number per shard:
  the samples are on disk, so memory stays flat however slow grading is.

  Raises:
    Exception: whatever grading raised, when the context is left.
  """
  by_id = {p.id: p for p in problems}
  with concurrent.futures.ThreadPoolExecutor(1, 'score') as executor:
    futures: list[concurrent.futures.Future[int]] = []
    yield lambda chunk: futures.append(
      executor.submit(_score_shard, directory, chunk, by_id, grader)
    )
    for future in futures:
      future.result()


def read_scored(directory: epath.Path, num_shards: int) -> Iterator[Scored]:
  """Yields the samples with their verdicts, in the order of the shards."""
  for c in range(num_shards):
    samples = shards.read_shard(shard_path(directory, 'samples', c))
    verdicts = shards.read_shard(shard_path(directory, 'verdicts', c))
    for sample, verdict in zip(samples, verdicts, strict=True):
      yield Scored(
        sample=from_dict(Sample, sample), verdict=from_dict(Verdict, verdict)
      )


def _show(directory, by_id, num_shards, log_samples, what) -> None:
  """Logs the first right and wrong samples of the run."""
  for right in (1.0, 0.0):
    rows = (
      s
      for s in read_scored(directory, num_shards)
      if s.verdict.reward == right and s.sample.index == 0
    )
    for scored in itertools.islice(rows, log_samples):
      problem = by_id[scored.sample.problem_id]
      _log.info(
        '%s: %s: %r%s: %r (%s)',
        what,
        'right' if right else 'wrong',
        problem.question[-160:],
        f' asked for {problem.answer!r}' if problem.answer else '',
        scored.sample.text[-160:],
        scored.verdict.reason,
      )
