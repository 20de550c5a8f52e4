"""Prompts: how a problem, and the examples before it, are put to a model.

In: a `Problem` and the shots of its task. Out: text, the prompt's and, for
fine-tuning on human solutions, the target's. Tokenising is not here: the
tokenizer belongs to the model, this module only asks it for its chat format.

Templates are `str.format` strings over a problem's question, answer, solution
and tests (of a program: the statements that the model is shown, one a line; the
first `meta['shown']` of `meta['tests']`, or all). Only the template itself is parsed, so braces in a question, an answer
or a model's output stay what they are.
"""

from collections.abc import Sequence
import dataclasses
import functools
import string

from etils import epath

from restem_jax.data import jsonl
from restem_jax.records import Problem
from restem_jax.tokenizer import Tokenizer

ASKED = ('question', 'tests')  # what may stand before the model's own text
FIELDS = ('question', 'answer', 'solution')


@functools.cache
def _load_shots(path: str) -> tuple[Problem, ...]:
  return tuple(jsonl.load(path))


def _check(label: str, template: str, allowed: Sequence[str]) -> None:
  """Raises ValueError unless the template names plain allowed fields only."""
  try:
    parts = list(string.Formatter().parse(template))
  except ValueError as e:
    raise ValueError(
      f'{label}={template!r}: {e}; a literal brace is written twice: {{{{ }}}}'
    ) from None
  for _, field, spec, conversion in parts:
    if field is None:
      continue
    if field not in allowed or spec or conversion:
      written = field + (f'!{conversion}' if conversion else '')
      written += f':{spec}' if spec else ''
      known = ', '.join(f'{{{name}}}' for name in allowed)
      raise ValueError(
        f'{label}={template!r}: unknown field {{{written}}}; allowed are'
        f' {known}, and a literal brace is written twice: {{{{ }}}}'
      )


def _shown_tests(problem: Problem) -> str:
  """The tests that the prompt shows, one a line."""
  tests = problem.meta.get('tests')
  if not isinstance(tests, list | tuple) or not all(
    isinstance(test, str) for test in tests
  ):
    raise ValueError(
      f"problem {problem.id!r}: its meta['tests'] are no list of statements,"
      f' which {{tests}} in the template would show; leave that out'
    )
  return '\n'.join(tests[: problem.meta.get('shown')])


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTemplate:
  r"""Zero-shot, few-shot and chat prompts.

  Example, with one shot `Problem(question='2 + 2 =', answer='4', ...)`:

    Question: 2 + 2 =
    Answer: 4

    Question: 4 + 3 =
    Answer:

  Raises:
    ValueError: when built, for a field that templates do not have.
  """

  question: str = 'Question: {question}\nAnswer:'
  answer: str = ' {answer}'  # of the shots, and the target of `target`
  separator: str = '\n\n'  # between instruction, shots and question
  num_shots: int = 0
  instruction: str = ''  # before all else; in a chat, of the first user turn
  shots_path: str | None = None  # a JSONL file; overrides the source's shots
  chat: bool = False  # render through the tokenizer's chat template
  system: str | None = None  # the system turn; None: the chat template's own
  stops: tuple[str, ...] = ('\n',)  # what ends an answer; not part of it

  def __post_init__(self):
    _check('question', self.question, ASKED)
    _check('answer', self.answer, FIELDS)
    # gin gives lists.
    object.__setattr__(self, 'stops', tuple(self.stops))
    if isinstance(self.num_shots, bool) or self.num_shots < 0:
      raise ValueError(f'num_shots={self.num_shots}; write 0 or more')
    if not all(isinstance(s, str) and s for s in self.stops):
      raise ValueError(
        f"stops={self.stops!r}; write a list of texts, none empty: ['\\n']"
      )
    if self.system is not None and not self.chat:
      raise ValueError(
        'system is a turn of a chat; write chat=True, or use instruction'
      )

  def render(
    self,
    problem: Problem,
    shots: Sequence[Problem] = (),
    tokenizer: Tokenizer | None = None,
  ) -> str:
    """The prompt's text, up to where the model goes on.

    Args:
      problem: what is asked.
      shots: solved problems of the same task; the first `num_shots` are shown.
      tokenizer: needed for a chat.

    Raises:
      ValueError: if there are too few shots, or a shot has no answer or
        solution where the template shows it.
    """
    chosen = self.choose_shots(problem, shots)
    if not self.chat:
      blocks = [self.instruction] if self.instruction else []
      blocks += [self._asked(shot) + self._answered(shot) for shot in chosen]
      return self.separator.join([*blocks, self._asked(problem)])
    if tokenizer is None:
      raise ValueError('chat=True needs the tokenizer that has the chat format')
    turns: list[dict[str, str]] = []
    if self.system is not None:
      turns.append({'role': 'system', 'content': self.system})
    lead = self.instruction + self.separator if self.instruction else ''
    for shot in chosen:
      turns.append({'role': 'user', 'content': lead + self._asked(shot)})
      turns.append({'role': 'assistant', 'content': self._answered(shot)})
      lead = ''
    turns.append({'role': 'user', 'content': lead + self._asked(problem)})
    return tokenizer.chat(turns, add_generation_prompt=True)

  def target(self, problem: Problem) -> str:
    """The text to fine-tune on after the prompt, in the form of the shots.

    It ends with the first stop, as a sample does. In a chat, and without
    stops, it ends without: there EOS ends it, which whoever tokenises adds.
    """
    text = self._answered(problem)
    return text if self.chat or not self.stops else text + self.stops[0]

  def choose_shots(
    self, problem: Problem, shots: Sequence[Problem]
  ) -> tuple[Problem, ...]:
    """The shots shown before a problem."""
    where = "the source's shots"
    if self.shots_path is not None and self.num_shots:
      shots = _load_shots(str(epath.Path(self.shots_path)))
      where = self.shots_path
      # A file can serve a mixture: rows that name a task are for that one.
      named = [shot for shot in shots if shot.task == problem.task]
      shots = named or shots
    if len(shots) < self.num_shots:
      raise ValueError(
        f'num_shots={self.num_shots}, but {where} for task {problem.task!r}'
        f" are {len(shots)}; lower it, raise the source's num_shots, or give"
        f' shots_path'
      )
    return tuple(shots[: self.num_shots])

  def _asked(self, problem: Problem) -> str:
    shows_tests = any(
      field == 'tests'
      for _, field, _, _ in string.Formatter().parse(self.question)
    )
    tests = _shown_tests(problem) if shows_tests else ''
    return self.question.format(question=problem.question, tests=tests)

  def _answered(self, problem: Problem) -> str:
    """The answer as written after the question; checked to be one answer."""
    values = {field: getattr(problem, field) for field in FIELDS}
    for _, field, _, _ in string.Formatter().parse(self.answer):
      if field is not None and not values[field].strip():
        raise ValueError(
          f'problem {problem.id!r} has no {field}, which the template'
          f' answer={self.answer!r} shows; add it or use another field'
        )
    text = self.answer.format(**values)
    # The turn's own header stands before it: no gap is wanted.
    text = text.lstrip() if self.chat else text
    for stop in self.stops:
      if stop in text:
        raise ValueError(
          f'problem {problem.id!r}: its answer {text[:60]!r} holds the stop'
          f' {stop!r}, where a sample would end; write other stops'
        )
    return text
