import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest
import runs
import tiny

from restem_jax import main

ROOT = pathlib.Path(main.__file__).parents[1]

# A system with real modes. Every test gets its own module name: what gin once
# registered under a name stays for the life of the process.
SYSTEM = """
import collections.abc
import dataclasses
import json
import pathlib
import time

from restem_jax import shards


def schedule(rate: float = 0.1, steps: int = 3):
  return rate * steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
  temperature: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
  model_dir: str
  weights: str = ''
  num_iterations: int = 1
  rate: float = 0.0
  policy: Policy | None = None
  config_text: str = ''
  versions: collections.abc.Mapping[str, str] = dataclasses.field(
    default_factory=dict
  )

  def em(self):
    row = dataclasses.asdict(self)
    path = pathlib.Path(self.model_dir, 'ran.json')
    path.write_text(json.dumps(row), encoding='utf-8')

  def generate(self):
    shards.read_shard(pathlib.Path(self.model_dir, 'none.jsonl'))

  def score(self):
    return int('seven')

  def improve(self):
    print('training', flush=True)
    time.sleep(60)

  def _hidden(self):
    raise AssertionError

  def with_argument(self, x):
    raise AssertionError
"""

RECIPE = """
from __gin__ import dynamic_registration
import {module}
from restem_jax import main

MODEL_DIR = '{folder}'  # where it goes
NUM_ITERATIONS = 2
WEIGHTS = %gin.REQUIRED

main.run.system = @{module}.System()
{module}.System:
  model_dir = %MODEL_DIR
  weights = %WEIGHTS
  num_iterations = %NUM_ITERATIONS
  rate = @{module}.schedule()
{module}.schedule.rate = 0.5
"""

_counter = itertools.count()


class Project:
  """A working directory with a module and a recipe that uses it."""

  def __init__(self, folder, capsys):
    self.folder = folder
    self.module = f'demo_system_{next(_counter)}'
    self._capsys = capsys
    (folder / f'{self.module}.py').write_text(SYSTEM)
    self.write('demo.gin', RECIPE)

  def write(self, name, text):
    path = self.folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    text = textwrap.dedent(text)
    text = text.replace('{module}', self.module)
    path.write_text(text.replace('{folder}', str(self.folder)))

  def run(self, *flags, weights=True):
    """Runs demo.gin; returns (exit code, stderr)."""
    if not any(flag.startswith('--gin_file') for flag in flags):
      flags = ('--gin_file=demo.gin', *flags)
    if weights:
      flags = (*flags, "--gin.WEIGHTS='w'")
    code = main.main(flags)
    return code, self._capsys.readouterr().err

  def refused(self, *flags, weights=True):
    """Runs demo.gin, which must end in one line; returns that line."""
    code, err = self.run(*flags, weights=weights)
    assert code == 2
    assert err.startswith('error: ') and err.count('\n') == 1, err
    return err

  def result(self):
    return json.loads((self.folder / 'ran.json').read_text())


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  return Project(tmp_path, capsys)


def test_runs_em_with_files_then_flags(project):
  code, err = project.run(
    '--gin.NUM_ITERATIONS=3', f'--gin.{project.module}.schedule.steps=7'
  )
  assert (code, err) == (0, '')
  result = project.result()
  assert result['weights'] == 'w'
  assert result['num_iterations'] == 3  # the flag wins over the file
  assert result['rate'] == 3.5
  assert result['versions']['python'] == sys.version.split()[0]
  assert 'jax' in result['versions']


def test_a_later_file_wins(project):
  project.write('more.gin', 'NUM_ITERATIONS = 5\n')
  project.run('--gin_file=demo.gin', '--gin_file=more.gin')
  assert project.result()['num_iterations'] == 5


def test_a_flag_can_refer_to_what_the_recipe_imports(project):
  module = project.module
  code, _ = project.run(
    f'--gin.{module}.System.policy=@{module}.Policy()',
    f'--gin.{module}.Policy.temperature=0.7',
  )
  assert code == 0
  assert project.result()['policy'] == {'temperature': 0.7}


def test_config_text_is_canonical(project):
  project.run()
  text = project.result()['config_text']
  module = project.module
  assert text.splitlines() == [
    'from __gin__ import dynamic_registration',
    f'import {module}',
    'from restem_jax import main',
    'NUM_ITERATIONS = 2',
    "WEIGHTS = 'w'",
    f'main.run.system = @{module}.System()',
    f'{module}.schedule.rate = 0.5',
    f'{module}.System.model_dir = %MODEL_DIR',
    f'{module}.System.num_iterations = %NUM_ITERATIONS',
    f'{module}.System.rate = @{module}.schedule()',
    f'{module}.System.weights = %WEIGHTS',
  ]
  # Where the run lies is not part of what it is; anything else is.
  moved = project.folder / 'elsewhere'
  moved.mkdir()
  project.run(f"--gin.MODEL_DIR='{moved}'")
  assert (moved / 'ran.json').exists()
  assert text in project.result()['config_text']
  project.run('--gin.NUM_ITERATIONS=9')
  assert project.result()['config_text'] != text


def test_nothing_of_an_earlier_call_stays(project):
  project.run('--gin.NUM_ITERATIONS=9')
  project.run()
  assert project.result()['num_iterations'] == 2
  project.refused(weights=False)


def test_a_long_value_stays_on_one_line(project):
  value = ', '.join(f"'{i:04}'" for i in range(500))
  project.run(f'--gin.{project.module}.System.num_iterations=({value})')
  lines = project.result()['config_text'].splitlines()
  assert any(line.endswith(f'num_iterations = ({value})') for line in lines)


@pytest.mark.parametrize(
  'flags, words',
  [
    (
      ['--gin.NUM_ITERATION=3'],
      ['--gin.NUM_ITERATION=3', 'did you mean NUM_ITERATIONS?'],
    ),
    (['--gin.QQ=3'], ['NUM_ITERATIONS', 'WEIGHTS']),
    (
      ['--gin.{module}.System.num_iteration=3'],
      ["no parameter 'num_iteration'; did you mean num_iterations?"],
    ),
    (['--gin.{module}.Policy.zz=3'], ["'zz'; it has temperature"]),
    (['--gin.{module}.Sistem.rate=3'], ["'Sistem'; did you mean System?"]),
    (['--gin.mian.run.system=3'], ["'mian'; did you mean main?"]),
    (
      ['--gin.WEIGHTS=hf://a/b-1'],
      ["""a string has two pairs of quotes: --gin.WEIGHTS="'hf://a/b-1'\""""],
    ),
    (['--gin.WEIGHTS=arithmetic'], ["""--gin.WEIGHTS="'arithmetic'\""""]),
    (["--gin.WEIGHTS=('a',"], ['check its quotes and brackets']),
    (['--gin.WEIGHTS='], ['write --gin.WEIGHTS=VALUE']),
    (['--gin.WEIGHTS'], ['write --gin.WEIGHTS=VALUE']),
    (['--gin.WEIGHTS=%NOWHERE'], ['NOWHERE is not set']),
    (['--gin.WEIGHTS=@{module}.nothing()'], ["no 'nothing'"]),
    (['--run_mode=scor'], ['--run_mode=scor', 'did you mean score?']),
    (
      ['--run_mode=x'],
      ['write one of em, generate, score, improve\n'],
    ),
    (['--run_mode=_hidden'], ['no such mode']),
    (['--run_mode=with_argument'], ['no such mode']),
    (['--gin_file=demos.gin'], ['--gin_file=demos.gin', 'mean demo.gin?']),
    (['--gin_file=/no/such.gin'], ['/no/such.gin: there is no such file']),
  ],
)
def test_a_mistake_is_one_line(project, flags, words):
  flags = [flag.replace('{module}', project.module) for flag in flags]
  line = project.refused(*flags, weights='WEIGHTS' not in flags[0])
  for word in words:
    assert word in line


def test_a_required_macro_must_be_set(project):
  line = project.refused(weights=False)
  assert 'WEIGHTS is not set: write --gin.WEIGHTS=' in line


def test_a_required_parameter_must_be_set(project):
  project.write(
    'more.gin',
    """
    from __gin__ import dynamic_registration
    import {module}
    {module}.System.rate = %gin.REQUIRED
    """,
  )
  line = project.refused('--gin_file=demo.gin', '--gin_file=more.gin')
  key = f'{project.module}.System.rate'
  assert f'{key} is not set: write --gin.{key}=' in line
  code, _ = project.run(
    '--gin_file=demo.gin', '--gin_file=more.gin', f'--gin.{key}=0.25'
  )
  assert code == 0
  assert project.result()['rate'] == 0.25


def test_a_field_that_nothing_binds_is_named(project):
  line = project.refused(
    f'--gin.{project.module}.System.policy=@{project.module}.Policy()'
  )
  assert "Policy missing 1 required keyword-only argument: 'temperature" in line


@pytest.mark.parametrize(
  'text, words',
  [
    ('import restem_jax.nothing\n', ["'restem_jax.nothing'", 'line 1']),
    ('from restem_jax import nothing\n', ["'restem_jax.nothing'"]),
    ('WEIGHTS = hf://x\n', ["bad.gin, line 1: 'hf' is no Python lit"]),
    ('WEIGHTS = [1,\n', ['bad.gin']),
    ('WEIGHTS\n', ['bad.gin, line 1']),
    ("include 'no_such.gin'\n", ['no_such.gin', 'bad.gin, line 1']),
    (
      'from __gin__ import dynamic_registration\n'
      'import {module}\n\n{module}.System.wieghts = 1\n',
      ['bad.gin, line 4', 'did you mean weights?'],
    ),
    # A name that no recipe registers: gin keeps those for the process.
    ('optax.lion.b1 = 1\n', ['bad.gin, line 1', 'optax.lion']),
    ('NUM_ITERATION = 1\n', ['NUM_ITERATION ', 'mean NUM_ITERATIONS?']),
  ],
)
def test_a_mistake_in_a_file_names_file_and_line(project, text, words):
  project.write('bad.gin', text)
  line = project.refused('--gin_file=demo.gin', '--gin_file=bad.gin')
  for word in words:
    assert word.replace('{module}', project.module) in line


def test_a_bug_in_an_imported_module_is_no_users_mistake(project):
  project.write('broken_module.py', 'import json\njson.nothing\n')
  project.write('bad.gin', 'import broken_module\n')
  with pytest.raises(AttributeError, match='nothing'):
    main.main(['--gin_file=demo.gin', '--gin_file=bad.gin'])
  project.write('broken_module2.py', 'if\n')
  project.write('bad.gin', 'import broken_module2\n')
  with pytest.raises(SyntaxError):
    main.main(['--gin_file=demo.gin', '--gin_file=bad.gin'])


def test_files_alone_need_a_top_recipe(project):
  project.write('size.gin', 'NUM_ITERATIONS = 5\n')
  line = project.refused('--gin_file=size.gin', weights=False)
  assert 'nothing binds main.run.system' in line


def test_includes_and_search_paths(project):
  project.write('lib/sizes/small.gin', 'NUM_ITERATIONS = 7\n')
  project.write('top.gin', "include 'demo.gin'\ninclude 'sizes/small.gin'\n")
  assert 'sizes/small.gin' in project.refused('--gin_file=top.gin')
  flags = ['--gin_file=top.gin', '--gin_search_paths=lib']
  assert project.run(*flags)[0] == 0
  assert project.result()['num_iterations'] == 7
  # The added path served that call alone.
  project.refused('--gin_file=top.gin')
  line = project.refused('--gin_file=sizes/smal.gin', '--gin_search_paths=lib')
  assert 'did you mean sizes/small.gin?' in line


def test_the_librarys_value_error_is_one_line(project):
  line = project.refused('--run_mode=generate')
  assert 'none.jsonl' in line and 'In call to' not in line


def test_a_value_error_from_elsewhere_keeps_its_traceback(project):
  with pytest.raises(ValueError, match="'seven'"):
    project.run('--run_mode=score')


def test_a_bucket_without_its_library(tmp_path):
  problems = tmp_path / 'sums.jsonl'
  problems.write_text(
    ''.join(
      f'{{"id": "{i}", "question": "1 + {i}?", "answer": "{1 + i}"}}\n'
      for i in range(300)
    )
  )
  flags = {
    'MODEL_DIR': 'gs://bucket/run',
    'DATA_PATH': str(problems),
    'WEIGHTS': str(tiny.write_tiny_hf_model(tmp_path / 'model')),
  }
  ended = runs.command(
    ['--gin_file=jsonl.gin', *(f'--gin.{k}={v!r}' for k, v in flags.items())],
    blocked='gcsfs',
  )
  assert ended.returncode == 2
  assert ended.stderr.splitlines()[-1] == (
    "error: gs:// needs gcsfs; write pip install 'restem_jax[gcs]'"
  )


def test_help_that_nobody_reads_on():
  reading, writing = os.pipe()
  os.close(reading)  # as `| head` does once it has its lines
  command = [sys.executable, '-m', 'restem_jax.main', '--help']
  out = subprocess.run(
    command, stdout=writing, stderr=subprocess.PIPE, text=True, check=True
  )
  os.close(writing)
  assert out.stderr == ''


def test_help(capsys):
  assert main.main(['--help']) == 0
  out = capsys.readouterr().out
  for word in ['MODEL_DIR', 'CHECKPOINT', '--run_mode', '--gin.WEIGHTS="\'hf:']:
    assert word in out


# A module of this name that cannot be imported, for each of these.
BLOCKER = """
import sys
for name in ('tensorflow', 'tensorflow_datasets', 'tensorflow_text', 'seqio'):
  sys.modules[name] = None
"""


def start(project, *flags):
  env = dict(os.environ, PYTHONPATH=f'{project.folder}{os.pathsep}{ROOT}')
  return subprocess.Popen(
    [sys.executable, '-m', 'restem_jax.main', *flags],
    cwd=project.folder,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_as_a_command_without_tensorflow(project):
  project.write('sitecustomize.py', BLOCKER)
  command = start(project, '--gin_file=demo.gin', "--gin.WEIGHTS='w'")
  out, err = command.communicate(timeout=60)
  assert (command.returncode, out, err) == (0, '', '')
  assert project.result()['weights'] == 'w'


def test_a_crash_is_a_traceback_and_one(project):
  flags = ['--gin_file=demo.gin', "--gin.WEIGHTS='w'", '--run_mode=score']
  command = start(project, *flags)
  _, err = command.communicate(timeout=60)
  assert command.returncode == 1
  assert 'Traceback' in err


def test_interrupt(project):
  # A shell's background jobs ignore it, and so would what they start.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  flags = ['--gin_file=demo.gin', "--gin.WEIGHTS='w'", '--run_mode=improve']
  with start(project, *flags) as command:
    assert command.stdout is not None and command.stderr is not None
    assert command.stdout.readline() == 'training\n'
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=60) == 130
    err = command.stderr.read()
  assert err.startswith('interrupted') and err.count('\n') == 1
