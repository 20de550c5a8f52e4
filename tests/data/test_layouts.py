"""Rows of known data sets."""

import pytest

from restem_jax.data import layouts


def test_gsm8k_row():
  row = {
    'question': 'How many?',
    'answer': 'She sold 48/2 = <<48/2=24>>24.\n#### 1,024',
  }
  problem = layouts.gsm8k_row(row, 'train/1', 'gsm8k')
  assert problem.answer == '1024'
  assert problem.solution == 'She sold 48/2 = 24.\n#### 1,024'
  with pytest.raises(ValueError, match='#### 24'):
    layouts.gsm8k_row({'question': 'q', 'answer': '24'}, 'i', 't')


def test_hendrycks_math_row():
  row = {
    'problem': 'p',
    'solution': r'so \boxed{1} and \boxed{\frac{1}{2}}.',
    'level': 'Level 5',
    'type': 'Algebra',
    'unique_id': 'train/algebra/1.json',
  }
  problem = layouts.hendrycks_math_row(row, 'i', 't')
  assert (problem.id, problem.answer) == (
    'train/algebra/1.json',
    r'\frac{1}{2}',
  )
  assert problem.meta == {'level': 'Level 5', 'type': 'Algebra'}
  given = layouts.hendrycks_math_row({**row, 'answer': '0.5'}, 'i', 't')
  assert given.answer == '0.5'
  with pytest.raises(ValueError, match='boxed'):
    layouts.hendrycks_math_row({'problem': 'p', 'solution': 's'}, 'i', 't')


@pytest.mark.parametrize(
  'text, expected',
  [
    (r'\boxed{a{b}c} \boxed{2}', '2'),
    (r'\boxed{\{1, 2\}}', r'\{1, 2\}'),
    (r'$\boxed 4$.', '4'),
    (r'\fbox{x}', 'x'),
    (r'\boxed{}', ''),
    (r'\boxed{never closed', None),
    ('no box', None),
  ],
)
def test_last_boxed(text, expected):
  assert layouts.last_boxed(text) == expected


def test_mbpp_row():
  row = {
    'task_id': 126,
    'text': ' Write sum.\r\n',
    'code': 'def sum(a):\r\n\treturn a\r\n',
    'test_list': ['assert sum(1) == 1\r\n'],
    'test_setup_code': 'x = 1\r\n',
    'challenge_test_list': ['assert sum(2) == 2'],
  }
  problem = layouts.mbpp_row(row, 'train/1', 't')
  assert (problem.id, problem.task) == ('mbpp/126', 't')
  assert (problem.question, problem.answer) == ('Write sum.', '')
  assert problem.solution == 'def sum(a):\n\treturn a'
  assert problem.meta == {
    'kind': 'assert',
    'tests': ['assert sum(1) == 1\n'],
    'setup': 'x = 1\n',
    'challenge_tests': ['assert sum(2) == 2'],
    'task_id': 126,
  }
  for field, value, message in (
    ('task_id', '126', "'task_id' is '126'"),
    ('task_id', True, "'task_id' is True"),
    ('test_list', [], 'write the asserts'),
    ('test_list', 'assert 1', 'a list of texts'),
    ('text', ' ', "'text' is empty"),
  ):
    with pytest.raises(ValueError, match=message):
      layouts.mbpp_row({**row, field: value}, 'i', 't')


def test_humaneval_row():
  row = {
    'task_id': 'HumanEval/7',
    'prompt': 'def f(x):\n',
    'entry_point': 'f',
    'canonical_solution': '    return x\n',
    'test': 'def check(candidate):\n  pass\n',
  }
  problem = layouts.humaneval_row(row, 'i', 't')
  assert (problem.id, problem.question) == ('HumanEval/7', 'def f(x):\n')
  # Indentation is part of it: the solution continues the prompt.
  assert problem.solution == '    return x\n'
  assert problem.meta == {
    'kind': 'humaneval',
    'tests': row['test'],
    'entry_point': 'f',
    'prompt': row['prompt'],
  }
  del row['test']
  with pytest.raises(ValueError, match="no field 'test'"):
    layouts.humaneval_row(row, 'i', 't')


def apps_meta(io, **fields):
  row = {'question': 'q', 'input_output': io, **fields}
  return layouts.apps_row(row, 'i', 't').meta


def test_apps_row_stdio():
  meta = apps_meta(
    # Lines may come as a list, and with either line end.
    {'inputs': ['1\r\n2', ['3', '4']], 'outputs': ['1', ['3', '']]},
    solutions=[' \n', '\nprint(1)\n\n', 'a', 'b', 'c', 'd'],
  )
  assert meta == {
    'kind': 'stdio',
    'tests': [
      {'stdin': '1\n2', 'stdout': '1'},
      {'stdin': '3\n4', 'stdout': '3\n'},
    ],
    'compare': {'mode': 'float'},
    'solutions': ['a', 'b', 'c'],  # after the first, which is `solution`
    'difficulty': None,
  }


def test_apps_row_call():
  io = {'fn_name': 'f', 'inputs': [[1, 2]], 'outputs': [[[3, 4]]]}
  meta = apps_meta(io)
  assert (meta['kind'], meta['entry_point']) == ('call', 'f')
  assert meta['tests'] == [{'args': [1, 2], 'expected': [3, 4]}]
  # Not all outputs are lists of one: none is a box.
  io = {'fn_name': 'f', 'inputs': [[1], [2]], 'outputs': [[1], [1, 2]]}
  assert [t['expected'] for t in apps_meta(io)['tests']] == [[1], [1, 2]]
  io['outputs'] = [1, True]
  assert [t['expected'] for t in apps_meta(io)['tests']] == [1, True]
  starter = 'class Solution:\n    def f(self, x):'
  meta = apps_meta(io, starter_code=starter)
  assert meta['entry_point'] == 'Solution.f'


@pytest.mark.parametrize(
  'io, message',
  [
    ({'inputs': ['1'], 'outputs': []}, '1 inputs, but 0 outputs'),
    ({'inputs': 'x', 'outputs': []}, "'input_output' must be"),
    ([], "'input_output' must be"),
    ({'inputs': [1], 'outputs': ['1']}, '1 is neither text'),
    ({'inputs': ['1'], 'outputs': [[1]]}, 'neither text nor lines'),
    ({'fn_name': 'f', 'inputs': [1], 'outputs': [1]}, 'must be lists'),
  ],
)
def test_apps_row_with_tests_that_cannot_be_read(io, message):
  with pytest.raises(ValueError, match=message):
    apps_meta(io)


def test_apps_row_without_tests():
  assert apps_meta({})['tests'] == []


def test_unknown_layout():
  with pytest.raises(ValueError, match=r"no layout 'mpbb'; .*'mbpp'"):
    layouts.row_fn('mpbb')
