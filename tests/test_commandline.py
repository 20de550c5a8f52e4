import pytest

from restem_jax import commandline


def test_takes_the_command_line_apart():
  arguments = commandline.parse(
    [
      '--gin_file=math.gin',
      '--gin.A=1 == 2',
      '--gin_file',
      'models/x.gin',
      "--gin.loop.System.b='c'",
      '--gin_search_paths=a,b',
      '--run_mode=score',
    ]
  )
  assert arguments == commandline.Arguments(
    gin_files=('math.gin', 'models/x.gin'),
    bindings=(('A', '1 == 2'), ('loop.System.b', "'c'")),
    search_paths=('a', 'b'),
    run_mode='score',
  )


@pytest.mark.parametrize(
  'argv, words',
  [
    ([], 'write --gin_file=math.gin'),
    (['--gin_file'], '--gin_file: expected one argument; --help'),
    (['--gin_fil=x'], '--gin_fil=x: no such flag; did you mean --gin_file?'),
    (['math.gin'], 'math.gin: no such flag'),
    (['--NUM_SAMPLES=3'], 'are written --gin.NUM_SAMPLES=VALUE'),
    (['--gin.=3'], '--gin.=3: write --gin.NAME=VALUE'),
  ],
)
def test_says_what_to_write(argv, words):
  with pytest.raises(commandline.UsageError, match=words):
    commandline.parse(argv)


def test_finds_files_in_order_and_the_nearest_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('a/math.gin', 'b/math.gin', 'b/models/tiny.gin'):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  search = ('', 'a', 'b')
  assert commandline.find('math.gin', search) == 'a/math.gin'
  assert commandline.find('models/tiny.gin', search) == 'b/models/tiny.gin'
  (tmp_path / 'math.gin').touch()
  assert commandline.find('math.gin', search) == 'math.gin'
  with pytest.raises(commandline.UsageError) as error:
    commandline.find('models/tiniy.gin', search)
  assert f'no such file in {tmp_path}, {tmp_path}/a' in str(error.value)
  assert 'did you mean models/tiny.gin?' in str(error.value)


def hosts(*flags):
  return commandline.parse(['--gin_file=math.gin', *flags]).hosts


def test_the_processes_of_a_run():
  assert hosts() is None
  nothing = dict.fromkeys(
    ('coordinator_address', 'process_count', 'process_index')
  )
  assert hosts('--distributed') == nothing | {'host_timeout': 100.0}
  assert hosts(
    '--coordinator_address=a:12',
    '--process_count=2',
    '--process_index=1',
    '--host_timeout=30',
  ) == {
    'coordinator_address': 'a:12',
    'process_count': 2,
    'process_index': 1,
    'host_timeout': 30.0,
  }


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    ('--process_count=2', '--coordinator_address and --process_index: not giv'),
    ('--coordinator_address=a:1 --process_count=2 --process_index=2', '0 to 1'),
    (
      '--coordinator_address=a --process_count=2 --process_index=0',
      'HOST:PORT',
    ),
    ('--distributed --host_timeout=1', '--host_timeout=1: write 2 or more'),
    ('--process_indx=1', 'did you mean --process_index'),
    ('--preempted_exit_code=256', 'write 0 to 255'),
  ],
)
def test_processes_that_do_not_fit_together(flags, words):
  with pytest.raises(commandline.UsageError, match=words):
    hosts(*flags.split())


def test_near():
  assert commandline.near('num_sample', ['NUM_SAMPLES', 'SEED']) == (
    '; did you mean NUM_SAMPLES?'
  )
  assert commandline.near('zzz', ['NUM_SAMPLES', 'SEED']) == ''


def test_quoting():
  assert commandline.quoting('W', 'hf://a') == (
    'a string has two pairs of quotes: --gin.W="\'hf://a\'"'
  )
  assert 'brackets' in commandline.quoting('W', "('a'")


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('NUM_SAMPLES', 'x'),
    ('NUM_ITERATIONS', 2.0),
    ('NUM_TRAIN_PROBLEMS', -1),
    ('SEED', True),
    ('MIXTURE', 3),
    ('EVAL_TASKS', 'gsm8k'),
  ],
)
def test_a_macro_of_another_kind_is_named(name, value):
  with pytest.raises(commandline.UsageError, match=f'{name} = .*--gin.{name}='):
    commandline.check_macro(name, value)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('NUM_SAMPLES', 8),
    ('NUM_TRAIN_PROBLEMS', None),
    ('EVAL_TASKS', ['gsm8k']),
    ('DATA_PATH', {'gsm8k': 'a'}),
    ('OWN', 1.5),
  ],
)
def test_macros_of_the_right_kind_pass(name, value):
  commandline.check_macro(name, value)
