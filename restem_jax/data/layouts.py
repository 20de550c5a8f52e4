r"""Rows of known data sets, as problems.

In: one parsed JSON value (a row of a file, of TFDS or of the hub). Out: a
`Problem`. A row that does not fit raises ValueError that says what is wrong;
the caller adds file and line. Reading files is not here (`data.jsonl`).

A plain row is `{"id": "a", "question": "4 + 3 =", "answer": "7"}`; `id` may be
left out, `solution` and `task` may be there, all else goes to `meta`.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
import re
from typing import Any

from restem_jax.records import Problem

# (row, id and task to use where the row names none) -> problem
RowFn = Callable[[Any, str, str], Problem]

_CALCULATOR = re.compile(r'<<[^<>]*>>')
# References of an APPS problem, of up to hundreds: enough to tell whether its
# tests are sound, few enough for all to be run when the problems are loaded.
_SOLUTIONS = 4
_BOX = re.compile(r'\\(?:boxed|fbox)\s*')


def text_of(
  row: Mapping[str, Any], field: str, *, default: str | None = None
) -> str:
  """The text of a field; a number is written out as JSON writes it.

  Raises:
    ValueError: if the field is missing (and there is no default) or is neither
      text nor a number.
  """
  if field not in row:
    if default is not None:
      return default
    raise ValueError(
      f'there is no field {field!r} (there are: {", ".join(map(str, row))});'
      ' add it, or name the right field (question_field, answer_field, ...)'
    )
  value = row[field]
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    raise ValueError(
      f'{field!r} is {value!r:.60}; write text in quotes or a number'
    )
  if isinstance(value, float) and not math.isfinite(value):
    raise ValueError(f'{field!r} is {value}; write a finite number or text')
  text = str(value)
  try:
    text.encode()
  except UnicodeEncodeError:
    raise ValueError(
      f'{field!r} holds half of a surrogate pair (\\ud800-\\udfff alone);'
      f' write the character itself in UTF-8'
    ) from None
  return text


def _filled(row: Mapping[str, Any], field: str) -> str:
  text = text_of(row, field)
  if not text.strip():
    raise ValueError(f'{field!r} is empty; write the text or delete the line')
  return text


def _checked(row: Any) -> Mapping[str, Any]:
  if not isinstance(row, dict):
    raise ValueError(
      f'a line must be one JSON object, this is {row!r:.60}; write e.g.'
      ' {"id": "1", "question": "4 + 3 =", "answer": "7"}'
    )
  return row


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainRow:
  """Rows with one field each for question, answer, solution, id and task."""

  question_field: str = 'question'
  answer_field: str | None = 'answer'  # None: no gold (programs have tests)
  solution_field: str = 'solution'
  id_field: str = 'id'
  task_field: str = 'task'

  def __call__(self, row: Any, row_id: str, task: str) -> Problem:
    row = _checked(row)
    gold = self.answer_field
    used = dataclasses.asdict(self).values()
    given_id = text_of(row, self.id_field, default=row_id)
    if not given_id:
      raise ValueError(f'{self.id_field!r} is empty; write one or leave it out')
    meta = row.get('meta', {})
    if not isinstance(meta, dict):
      raise ValueError(f"'meta' is {meta!r:.60}; write an object {{...}}")
    rest = {k: v for k, v in row.items() if k not in used and k != 'meta'}
    return Problem(
      id=given_id,
      question=_filled(row, self.question_field),
      answer='' if gold is None else _filled(row, gold).strip(),
      solution=text_of(row, self.solution_field, default=''),
      task=text_of(row, self.task_field, default='') or task,
      meta={**rest, **meta},
    )


def gsm8k_row(row: Any, row_id: str, task: str) -> Problem:
  r"""A row of GSM8K (openai/grade-school-math): question, answer.

  Example: the answer `'48/2 = <<48/2=24>>24 clips.\n#### 1,024'` gives the
  gold `'1024'` and the solution `'48/2 = 24 clips.\n#### 1,024'`.
  """
  row = _checked(row)
  worked = _filled(row, 'answer')
  _, mark, final = worked.rpartition('####')
  gold = final.strip().replace(',', '')
  if not mark or not gold:
    raise ValueError(
      f"'answer' ends in {worked[-30:]!r}; a GSM8K answer ends in '#### 24'"
      " (for rows with the bare answer, leave out layout='gsm8k')"
    )
  return Problem(
    id=text_of(row, 'id', default=row_id),
    question=_filled(row, 'question'),
    answer=gold,
    solution=_CALCULATOR.sub('', worked),
    task=task,
  )


def hendrycks_math_row(row: Any, row_id: str, task: str) -> Problem:
  r"""A row of MATH (hendrycks/math): problem, solution, level, type.

  The gold is `answer` where the row has it, else what the last `\boxed{}` of
  the solution holds. Two of the 7500 training problems have an empty box: they
  come with an empty gold, which no grader verifies.
  """
  row = _checked(row)
  solution = text_of(row, 'solution', default='')
  if 'answer' in row:
    gold = text_of(row, 'answer')
  elif (boxed := last_boxed(solution)) is not None:
    gold = boxed
  else:
    raise ValueError(
      "there is no field 'answer' and no \\boxed{...} in 'solution'; add one"
    )
  return Problem(
    id=text_of(row, 'unique_id', default='')
    or text_of(row, 'id', default=row_id),
    question=_filled(row, 'problem'),
    answer=gold.strip(),
    solution=solution,
    task=task,
    meta={k: row[k] for k in ('level', 'type', 'subject') if k in row},
  )


def last_boxed(text: str) -> str | None:
  r"""What the last `\boxed{...}`, `\boxed x` or `\fbox{...}` holds, or None."""
  boxes = list(_BOX.finditer(text))
  if not boxes:
    return None
  rest = text[boxes[-1].end() :]
  if not rest.startswith('{'):
    # `\boxed 4`: up to the end of the formula or sentence.
    return re.split(r'[\s$]', rest, maxsplit=1)[0].rstrip('.')
  depth = 0
  for i, char in enumerate(rest):
    escaped = i > 0 and rest[i - 1] == '\\'
    if char == '{' and not escaped:
      depth += 1
    elif char == '}' and not escaped:
      depth -= 1
      if depth == 0:
        return rest[1:i]
  return None


def _lines(text: str) -> str:
  """The text with line ends of one kind; MBPP has both."""
  return text.replace('\r\n', '\n')


def _texts(row: Mapping[str, Any], field: str) -> list[str]:
  """A field that is a list of texts; [] where it is missing."""
  values = row.get(field, [])
  if not isinstance(values, list) or not all(
    isinstance(v, str) for v in values
  ):
    raise ValueError(f'{field!r} is {values!r:.60}; write a list of texts')
  return [_lines(v) for v in values]


def mbpp_row(row: Any, row_id: str, task: str) -> Problem:
  """A row of MBPP: task_id, text, code, test_list, test_setup_code.

  The problem is judged by `test_list`, as published numbers are; the further
  `challenge_test_list` stays in `meta` as 'challenge_tests'.
  """
  row = _checked(row)
  del row_id  # MBPP's own number says to which split a problem belongs
  number = row.get('task_id')
  if isinstance(number, bool) or not isinstance(number, int):
    raise ValueError(f"'task_id' is {number!r:.60}; write MBPP's number")
  tests = _texts(row, 'test_list')
  if not tests:
    raise ValueError("'test_list' is missing or empty; write the asserts")
  return Problem(
    id=f'mbpp/{number}',
    question=_lines(_filled(row, 'text')).strip(),
    answer='',
    solution=_lines(text_of(row, 'code', default='')).strip('\n').rstrip(),
    task=task,
    meta={
      'kind': 'assert',
      'tests': tests,
      'setup': _lines(text_of(row, 'test_setup_code', default='')),
      'challenge_tests': _texts(row, 'challenge_test_list'),
      'task_id': number,
    },
  )


def humaneval_row(row: Any, row_id: str, task: str) -> Problem:
  """A row of HumanEval: the completion continues `prompt`."""
  row = _checked(row)
  prompt = _filled(row, 'prompt')
  return Problem(
    id=text_of(row, 'task_id', default=row_id),
    question=prompt,
    answer='',
    solution=text_of(row, 'canonical_solution', default=''),
    task=task,
    meta={
      'kind': 'humaneval',
      'tests': _filled(row, 'test'),
      'entry_point': _filled(row, 'entry_point'),
      'prompt': prompt,
    },
  )


def apps_row(row: Any, row_id: str, task: str) -> Problem:
  """A problem of APPS, its files gathered in one object.

  Fields: question, solutions (a list), input_output ({inputs, outputs} and
  perhaps fn_name), starter_code, difficulty. The question ends with the starter
  code and the form that is wanted, in the words of APPS's own prompt. Of many
  solutions the first few are kept. Without tests, `meta['tests']` is empty.
  """
  row = _checked(row)
  question = _lines(_filled(row, 'question')).strip()
  starter = _lines(text_of(row, 'starter_code', default='')).strip('\n')
  solutions = [s.strip('\n').rstrip() for s in _texts(row, 'solutions')]
  solutions = [s for s in solutions if s][:_SOLUTIONS]
  given = row.get('input_output', {})
  inputs, outputs = (
    given.get(key, []) if isinstance(given, dict) else None
    for key in ('inputs', 'outputs')
  )
  if not isinstance(inputs, list) or not isinstance(outputs, list):
    raise ValueError('\'input_output\' must be {"inputs": [], "outputs": []}')
  if len(inputs) != len(outputs):
    raise ValueError(f'{len(inputs)} inputs, but {len(outputs)} outputs')
  pairs = list(zip(inputs, outputs, strict=True))
  name = given.get('fn_name')
  if name:
    form = 'Use Call-Based format'
    solution_class = 'class Solution' in (starter or '\n'.join(solutions))
    tests = {
      'kind': 'call',
      'entry_point': f'Solution.{name}' if solution_class else name,
      'tests': _calls(pairs),
    }
  else:
    form = 'Use Standard Input format'
    tests = {
      'kind': 'stdio',
      'tests': [{'stdin': _text(i), 'stdout': _text(o)} for i, o in pairs],
      'compare': {'mode': 'float'},
    }
  return Problem(
    id=text_of(row, 'id', default=row_id),
    question='\n\n'.join(part for part in (question, starter, form) if part),
    answer='',
    solution=solutions[0] if solutions else '',
    task=task,
    meta={
      **tests,
      'solutions': solutions[1:],
      'difficulty': row.get('difficulty'),
    },
  )


def _text(value: Any) -> str:
  """Standard input or output: a text, or its lines."""
  if isinstance(value, list) and all(isinstance(v, str) for v in value):
    value = '\n'.join(value)
  if not isinstance(value, str):
    raise ValueError(f'{value!r:.60} is neither text nor lines of text')
  return _lines(value)


def _calls(pairs: list[tuple[Any, Any]]) -> list[dict[str, Any]]:
  """Calls; where all outputs are lists of one element, that is the value."""
  if not all(isinstance(arguments, list) for arguments, _ in pairs):
    raise ValueError('the inputs of a function must be lists of arguments')
  boxed = all(isinstance(o, list) and len(o) == 1 for _, o in pairs)
  return [{'args': i, 'expected': o[0] if boxed else o} for i, o in pairs]


def row_fn(layout: str) -> RowFn:
  """The parser of a layout by name."""
  layouts: dict[str, RowFn] = {
    'plain': PlainRow(),
    'gsm8k': gsm8k_row,
    'hendrycks_math': hendrycks_math_row,
    'mbpp': mbpp_row,
    'humaneval': humaneval_row,
    'apps': apps_row,
  }
  if layout not in layouts:
    raise ValueError(
      f'no layout {layout!r}; write one of {", ".join(map(repr, layouts))}'
    )
  return layouts[layout]
