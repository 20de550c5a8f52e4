"""A task: problems, how they are put to the model, how answers are judged.

In: a problem source, a prompt template, a grader. Out: problems whose gold
verifies, and their prompts' token ids. What is *not* here: sampling.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import logging

from restem_jax.data import human
from restem_jax.data.prompts import PromptTemplate
from restem_jax.data.source import Source
from restem_jax.records import Problem
from restem_jax.rewards.base import Grader
from restem_jax.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """What is asked and how it is judged.

  Attributes:
    source: where the problems come from.
    prompt: template, shots and stop strings; the same prompt serves sampling
      and training input (arXiv 2312.06585 §5).
    grader: judges completions.
    max_new_tokens: a rollout that reaches it is `truncated`, never right.
    max_prompt_len: prompts may have so many tokens.
    long_prompts: what becomes of a longer one, with a log line that names the
      problem: 'skip', or 'truncate', which keeps BOS and the prompt's end.
  """

  source: Source
  prompt: PromptTemplate
  grader: Grader
  max_new_tokens: int = 512
  max_prompt_len: int = 2048
  long_prompts: str = 'skip'

  def __post_init__(self):
    if self.long_prompts not in ('skip', 'truncate'):
      raise ValueError(
        f'Task.long_prompts={self.long_prompts!r}; write skip or truncate'
      )

  @property
  def name(self) -> str:
    """The source's name; names files and rows of tables."""
    return self.source.name

  @functools.cached_property
  def _problems(self) -> dict[str, list[Problem]]:
    """All splits, without problems whose own gold does not verify."""
    out, seen = {}, {}
    for split in SPLITS:
      problems = self.source.load(split)
      dropped = self.grader.check_gold(problems)
      for problem, reason in dropped:
        _log.warning(
          '%s: dropped, its gold answer does not verify: %s', problem.id, reason
        )
      bad = {problem.id for problem, _ in dropped}
      out[split] = [p for p in problems if p.id not in bad]
      if problems:
        _log.info(
          '%s: %s: %d problems; dropped %d, whose gold does not verify',
          *(self.name, split, len(out[split]), len(bad)),
        )
      for problem in out[split]:
        key = ' '.join(problem.question.split())
        other = seen.setdefault(key, (split, problem.id))
        if other[0] != split:
          raise ValueError(
            f'{self.name}: {problem.id} of {split} asks the same as {other[1]} '
            f'of {other[0]}; remove one of them'
          )
    return out

  def problems(self, split: str) -> list[Problem]:
    """The problems of a split; no question is in two splits (checked)."""
    return self._problems[split]

  def prompt_ids(
    self, problems: Sequence[Problem], tokenizer: Tokenizer
  ) -> dict[str, tuple[int, ...]]:
    """Prompt token ids by problem id; too long ones as `long_prompts` says."""
    out = {}
    for problem in problems:
      shots = self.source.shots(problem.task)
      text = self.prompt.render(problem, shots, tokenizer)
      ids = tokenizer.encode(text, bos=True)
      if len(ids) > self.max_prompt_len:
        skip = self.long_prompts == 'skip'
        _log.warning(
          '%s: %s, its prompt has %d tokens and max_prompt_len is %d',
          *(problem.id, 'left out' if skip else 'truncated'),
          *(len(ids), self.max_prompt_len),
        )
        if skip:
          continue
        head = len(tokenizer.encode('', bos=True))
        ids = [*ids[:head], *ids[len(ids) - self.max_prompt_len + head :]]
      out[problem.id] = tuple(ids)
    return out

  def human_text(self, tokenizer: Tokenizer) -> human.TextFn:
    """Prompt and target of human solutions, in the form of this task."""
    return human.template_text(self.prompt, self.source, tokenizer)


def pick(name: str, tasks: Mapping[str, Task]) -> Task:
  """The task called `name`: the recipes' MIXTURE.

  Raises:
    ValueError: there is none; lists those there are.
  """
  if name not in tasks:
    raise ValueError(
      f'no task is called {name!r}; write one of {", ".join(sorted(tasks))}, '
      'or add yours to TASKS in a gin file'
    )
  return tasks[name]


def pick_all(names: Sequence[str], tasks: Mapping[str, Task]) -> list[Task]:
  """The tasks called `names`: the recipes' EVAL_TASKS."""
  return [pick(name, tasks) for name in names]
