import dataclasses
import json

from restem_jax.em import evaluate, improve, sampled, select, summary
from restem_jax.rewards import base


def write(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def report(task, split, num_correct, num):
  verdicts = [base.verdict('correct')] * num_correct
  verdicts += [base.verdict('wrong')] * (num - num_correct)
  return {task: evaluate.report(task, split, verdicts, num)}


def write_run(directory):
  """Two policies, of which the second was selected for and trained."""
  for iteration, right in ((0, 5), (1, 8)):
    folder = directory / f'iteration_{iteration:02d}'
    for task, split, num_correct in (
      ('digits', 'test', right),
      ('digits', 'validation', right - 2),
      ('words', 'test', 3),
    ):
      rows = report(task, split, num_correct, 10)
      rows = {name: dataclasses.asdict(r) for name, r in rows.items()}
      write(folder / 'eval' / f'{task}-{split}' / 'report.json', rows)
  folder = directory / 'iteration_01'
  chosen = select.Summary(
    num_problems=8,
    num_samples=32,
    num_right=7,
    num_solved=3,
    num_kept=5,
    coverage=0.375,
    tokens=20,
    dropped={'wrong': 20, 'timeout': 2, 'grader_error': 3, 'duplicate': 2},
    kept={'a': 5},
    num_timeouts=2,
    num_grader_errors=3,
  )
  write(folder / 'dataset' / 'select.json', dataclasses.asdict(chosen))
  outcome = improve.Outcome(
    num_examples=5,
    num_steps=9,
    best_step=6,
    validation_reward=0.6,
    history=(),
  )
  write(folder / 'checkpoints' / 'improve.json', dataclasses.asdict(outcome))


def test_rows(directory):
  write_run(directory)
  base_model, first = summary.rows(directory)
  assert base_model['iteration'] == 0
  assert 'num_kept' not in base_model and 'num_steps' not in base_model
  assert base_model['accuracy']['digits/test']['accuracy'] == 0.5
  accuracy = first['accuracy']
  assert set(accuracy) == {'digits/test', 'digits/validation', 'words/test'}
  assert accuracy['digits/test']['num_correct'] == 8
  assert accuracy['digits/test']['reasons'] == {'correct': 8, 'wrong': 2}
  assert first['coverage'] == 0.375
  assert first['dropped'] == {
    'wrong': 20, 'timeout': 2, 'grader_error': 3, 'duplicate': 2
  }  # fmt: skip
  assert (first['num_timeouts'], first['num_grader_errors']) == (2, 3)
  assert accuracy['digits/test']['num_timeouts'] == 0
  assert accuracy['digits/test']['num_grader_errors'] == 0
  assert 'kept' not in first  # a list as long as the problems
  assert (first['num_steps'], first['best_step']) == (9, 6)
  assert first['validation_reward'] == 0.6


def test_seconds_are_added_over_restarts(directory):
  write_run(directory)
  for iteration, stage in ((0, 'evaluate'), (1, 'improve'), (1, 'improve')):
    with summary.timed(directory, iteration, stage):
      pass
  path = directory / 'metrics' / 'stages.jsonl'
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line['stage'] for line in lines] == ['evaluate', 'improve', 'improve']
  for line in lines:
    line['seconds'] = 1.5
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  base_model, first = summary.rows(directory)
  assert base_model['seconds'] == {'evaluate': 1.5}
  assert first['seconds'] == {'improve': 3.0}


def test_file(directory):
  write_run(directory)
  (directory / 'summary.json.tmp-77').write_text('half')
  summary.write(directory)
  assert json.loads((directory / 'summary.json').read_text()) == json.loads(
    json.dumps(summary.rows(directory))
  )
  assert not list(directory.glob('*.tmp-*'))


def test_table(directory, capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '150')
  write_run(directory)
  sample(directory / 'iteration_01' / 'eval' / 'digits-test' / 'report.json')
  summary.print_table(directory, 'digits')
  cells = [
    [cell.strip() for cell in line.split('│')[1:-1]]
    for line in capsys.readouterr().out.splitlines()
    if line.startswith('│')
  ]
  assert [row[0] for row in cells] == ['0 (base)', '1']
  # Accuracy with its interval, validation reward, coverage, examples kept.
  assert cells[0][1:5] == ['0.500 [0.237, 0.763]', '0.300', '-', '-']
  assert cells[1][1:5] == ['0.800 [0.490, 0.943]', '0.600', '0.375', '5']
  # Timeouts and grader errors: of the selection, and of sampled evaluation.
  assert [row[6] for row in cells] == ['0 / 0', '3 / 3']
  assert [row[7] for row in cells] == ['-', 'pass@4 0.700, maj -']
  assert cells[1][-1] == '0.300 [0.108, 0.603]'  # transfer, last


def test_table_of_a_run_that_has_just_begun(directory, capsys):
  (directory / 'iteration_01' / 'samples').mkdir(parents=True)
  summary.print_table(directory, 'digits')
  assert '-' in capsys.readouterr().out


def sample(path):
  """Adds what a sampled evaluation of a code task says to a report."""
  rows = json.loads(path.read_text())
  config = sampled.SampledEvaluation(num_samples=4)
  found = dataclasses.replace(
    sampled.report([], config),
    pass_at={'1': 0.4, '4': 0.7},
    maj_at=None,
    num_timeouts=1,
  )
  for row in rows.values():
    row['sampled'] = dataclasses.asdict(found)
  write(path, rows)


def test_reports_of_older_runs_are_read(directory):
  write_run(directory)
  path = directory / 'iteration_00' / 'eval' / 'words-test' / 'report.json'
  rows = json.loads(path.read_text())
  for name in ('num_timeouts', 'num_grader_errors', 'sampled'):
    del rows['words'][name]
  write(path, rows)
  found = summary.rows(directory)[0]['accuracy']['words/test']
  assert found['accuracy'] == 0.3 and 'num_timeouts' not in found
  summary.print_table(directory, 'words')


def test_reports_of_one_policy(capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '150')
  summary.print_reports('it', report('digits', 'test', 8, 10))
  out = capsys.readouterr().out
  for part in (
    'it',
    'digits',
    '0.800 [0.490, 0.943]',
    'correct 8, wrong 2',
    '0 / 0',
  ):
    assert part in out
