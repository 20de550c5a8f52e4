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


def row_fn(layout: str) -> RowFn:
  """The parser of a layout by name."""
  layouts: dict[str, RowFn] = {
    'plain': PlainRow(),
    'gsm8k': gsm8k_row,
    'hendrycks_math': hendrycks_math_row,
  }
  if layout not in layouts:
    raise ValueError(
      f'no layout {layout!r}; write one of {", ".join(map(repr, layouts))}'
    )
  return layouts[layout]
