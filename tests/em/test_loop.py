import json
import pathlib
import shutil

import pytest
import runs

from restem_jax import main
from restem_jax.em import loop

STAGES = ('generate', 'score', 'select', 'improve', 'evaluate')


def split(files, *words):
  """The files whose path holds none of the words."""
  return {k: v for k, v in files.items() if not any(w in k for w in words)}


def refused(capsys, flags):
  assert main.main(flags) == 2
  err = capsys.readouterr().err
  (line,) = [x for x in err.splitlines() if x.startswith('error: ')]
  return line


def test_a_whole_run_without_tensorflow(undisturbed, expected):
  _, ended = undisturbed
  out = [line for line in ended.stdout.splitlines() if line.startswith('│')]
  assert [line.split('│')[1].strip() for line in out] == ['0 (base)', '1']
  for part in ('samples/samples-00003.jsonl', 'samples/verdicts-00003.jsonl',
               'dataset/selected.arrayrecord', 'dataset/select.json',
               'checkpoints/improve.json', 'eval/jsonl-test/report.json',
               'eval/jsonl-validation/report.json'):  # fmt: skip
    assert f'iteration_01/{part}' in expected
  assert 'iteration_00/eval/jsonl-test/report.json' in expected
  assert not [name for name in expected if '.tmp-' in name]
  base, first = expected['summary.json']
  assert first['num_right'] > first['num_kept'] > 5
  assert {'duplicate', 'wrong', 'truncated'} < set(first['dropped'])
  assert first['num_samples'] == 12 * 16
  assert first['num_kept'] + sum(first['dropped'].values()) == 12 * 16
  assert set(base['accuracy']) == {'jsonl/test', 'jsonl/validation'}
  # Right and wrong answers are in the log, and no bar, as it is no terminal.
  assert ': right: ' in ended.stderr and ': wrong: ' in ended.stderr
  assert '\r' not in ended.stderr and '━' not in ended.stderr


@pytest.mark.slow('8 s: loads the model for each mode')
def test_modes_one_by_one(tmp_path, flags, files, expected, capsys):
  flags = [*flags, runs.in_folder(tmp_path / 'run')]
  for mode, words in (
    ('score', 'run --run_mode=generate first'),
    ('improve', 'run --run_mode=select first'),
  ):
    assert words in refused(capsys, [*flags, f'--run_mode={mode}'])
  for mode in STAGES:
    assert main.main([*flags, f'--run_mode={mode}']) == 0
  runs.check_same(files(tmp_path / 'run'), expected)


@pytest.mark.slow('5 s: a second iteration')
def test_more_iterations(tmp_path, flags, files, expected, undisturbed):
  folder = shutil.copytree(undisturbed[0], tmp_path / 'run')
  flags = [*flags, runs.in_folder(folder), '--gin.NUM_ITERATIONS=2']
  assert main.main(flags) == 0
  found = files(folder)
  runs.check_same(
    split(found, 'iteration_02', 'summary'), split(expected, 'summary')
  )
  summary = found['summary.json']
  assert summary[:2] == expected['summary.json']
  assert summary[2]['iteration'] == 2
  # The second E-step samples from the first iteration's policy.
  name = 'iteration_0{}/samples/samples-00000.jsonl'
  assert found[name.format(1)] != found[name.format(2)]
  assert 'iteration_02/checkpoints/improve.json' in found


def test_no_correct_sample(tmp_path, flags, capsys):
  rows = [
    {'id': f'{split}/{i}', 'question': f'{split} {i}?', 'answer': 'zebra'}
    for split in ('train', 'test')
    for i in range(5)
  ]
  for name in ('train', 'test'):
    lines = [json.dumps(r) for r in rows if r['id'].startswith(name)]
    (tmp_path / f'{name}.jsonl').write_text('\n'.join(lines))
  (tmp_path / 'validation.jsonl').write_text(
    json.dumps({'question': 'v?', 'answer': 'zebra'})
  )
  folder = tmp_path / 'run'
  flags = [*flags, f'--gin.DATA_PATH={str(tmp_path)!r}', runs.in_folder(folder)]
  for _ in range(2):  # the second time nothing is left to do
    assert main.main(flags) == 0
    err = capsys.readouterr().err
    assert 'none of 48 samples is right: there is nothing to train on' in err
    assert 'NUM_SAMPLES' in err  # what to do
  assert not (folder / 'iteration_01' / 'checkpoints').exists()
  assert not (folder / 'iteration_01' / 'eval').exists()
  assert not list(folder.rglob('*.arrayrecord'))
  last = json.loads((folder / 'summary.json').read_text())[-1]
  assert (last['iteration'], last['num_kept'], last['coverage']) == (1, 0, 0)
  line = refused(capsys, [*flags, '--run_mode=improve'])
  assert 'run --run_mode=select first' in line


def test_samples_are_added_to_the_evaluations_of_a_finished_run(
  tmp_path, flags, undisturbed, capsys
):
  folder = tmp_path / 'run'
  shutil.copytree(undisturbed[0], folder)
  flags = [*flags, runs.in_folder(folder), '--run_mode=evaluate']
  more = ['--gin_file=evaluation/sampled.gin']
  more += ['--gin.sampled.SampledEvaluation.num_samples=4']
  assert main.main([*flags, *more]) == 0
  assert 'pass@4' in capsys.readouterr().out
  for row in json.loads((folder / 'summary.json').read_text()):
    found = row['accuracy']['jsonl/test']
    assert set(found['sampled']['pass_at']) == {'1', '2', '4'}
    assert 0 < found['sampled']['maj_at']['4'] <= 1
    assert (found['num_timeouts'], found['num_grader_errors']) == (0, 0)
    assert row['accuracy']['jsonl/validation']['sampled'] is None
  # Without the file it is still the same run.
  assert main.main(flags) == 0


def test_a_mixture_with_human_data(begun, flags, undisturbed):
  """The recipe's snippet; the E-step is that of the run without it."""
  (begun / 'config.gin').unlink()
  flags = [*flags, '--gin_file=mixtures/human.gin', runs.in_folder(begun)]
  for mode in ('select', 'improve'):
    assert main.main([*flags, f'--run_mode={mode}']) == 0
  from restem_jax.data.examples import read_examples

  folder = begun / 'iteration_01' / 'dataset'
  selected = {e.id: e for e in read_examples(folder / 'selected.arrayrecord')}
  mixed = list(read_examples(folder / 'mixed.arrayrecord'))
  human = [e for e in mixed if e.id.endswith('#human')]
  rest = [e for e in mixed if not e.id.endswith('#human')]
  assert {e.id: e for e in rest} == selected and len(rest) == len(selected)
  assert len(human) == round(len(selected) * 1.25) - len(selected) > 0
  outcome = json.loads(
    (begun / 'iteration_01/checkpoints/improve.json').read_text()
  )
  assert outcome['num_examples'] == len(mixed)
  # A damaged file is made again, the same.
  path = pathlib.Path(folder / 'mixed.arrayrecord')
  good = path.read_bytes()
  path.write_bytes(good[:-40])
  shutil.rmtree(begun / 'iteration_01' / 'checkpoints')
  assert main.main([*flags, '--run_mode=select']) == 0
  assert path.read_bytes() == good


@pytest.mark.parametrize(
  'fields, words',
  [({'init': 'last'}, 'write base or previous')],
)
def test_refused(fields, words, problem_task):
  with pytest.raises(ValueError, match=words):
    loop.System(model_dir='x', weights='y', task=problem_task, **fields)
