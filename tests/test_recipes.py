"""Every top recipe, as the command line reads it, up to its System."""

import json
import math
import pathlib

import pytest

from restem_jax import commandline, main
from restem_jax.em import hardware, precompile
from restem_jax.em.loop import System
from restem_jax.em.task import Task
from restem_jax.training import lora

RECIPES = sorted(p.name for p in commandline.RECIPES.glob('*.gin'))
MODES = (
  *('em', 'generate', 'score', 'select', 'improve', 'evaluate'),
  *('export', 'precompile'),
)


@pytest.fixture(scope='module')
def data_path(tmp_path_factory) -> pathlib.Path:
  """Problems, and beside them the same as GSM8K has them."""
  path = tmp_path_factory.mktemp('data') / 'mine.jsonl'
  for name, answer in (('mine', '{}'), ('gsm8k', 'Let us see.\n#### {}')):
    rows = (
      {'question': f'item {i}', 'answer': answer.format(i)} for i in range(80)
    )
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    path.with_stem(name).write_text(text)
  return path


@pytest.fixture
def build(data_path):
  """Builds the System of a recipe; no weights are looked at."""

  built: list[System] = []

  def close():
    for system in built:
      for task in (system.task, *system.eval_tasks):
        task.grader.close()
    # What several tasks share, such as a pool of sandboxes, no grader ends.
    for shared in main.gin._SINGLETONS.values():
      shared.close()

  def build(recipe, *more, **macros) -> System:
    close()
    own = data_path.with_stem(pathlib.Path(recipe).stem)
    path = own if own.exists() else data_path
    macros = {'DATA_PATH': str(path)} | macros
    flags = [f'--gin.{name}={value!r}' for name, value in macros.items()]
    files = [f'--gin_file={name}' for name in (recipe, *more)]
    arguments = commandline.parse([*files, *flags])
    system, _ = main._configure(arguments)
    built.append(system)
    return system

  yield build
  close()


@pytest.fixture
def refused(data_path, capsys):
  def refused(recipe, *flags) -> str:
    flags = (f'--gin.DATA_PATH={str(data_path)!r}', *flags)
    assert main.main([f'--gin_file={recipe}', *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1, err
    return err

  return refused


@pytest.mark.parametrize('recipe', RECIPES)
def test_builds(recipe, build):
  system = build(recipe)
  assert isinstance(system, System)
  assert isinstance(system.task, Task)
  assert system.model_dir.startswith('runs/')
  assert main._modes(system) == list(MODES)
  # Optax's own optimizer and our schedule are bound, ready to be called.
  assert system.trainer.make_optimizer(10).update


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_macro_reaches_the_system(recipe, build):
  name = build(recipe).task.name
  system = build(
    recipe,
    MODEL_DIR='there',
    WEIGHTS='w',
    MIXTURE=name,
    EVAL_TASKS=[name],
    NUM_ITERATIONS=5,
    NUM_SAMPLES=6,
    NUM_TRAIN_PROBLEMS=9,
    NUM_VALIDATION_PROBLEMS=2,
    NUM_TEST_PROBLEMS=3,
    SEED=11,
    CHECKPOINT='there/iteration_01/checkpoints',
    OUTPUT='exported',
  )
  assert (system.model_dir, system.weights) == ('there', 'w')
  assert (system.num_iterations, system.sampling.num_samples) == (5, 6)
  assert (system.seed, system.selection.seed, system.trainer.seed) == (11,) * 3
  assert system.checkpoint == 'there/iteration_01/checkpoints'
  assert system.output == 'exported'
  assert [task.name for task in system.eval_tasks] == [name]
  for task in (system.task, *system.eval_tasks):
    sizes = [len(task.source.load(s)) for s in ('train', 'validation', 'test')]
    assert sizes == [9, 2, 3]


def test_the_macros_are_those_that_help_names():
  assert set(commandline.MACROS) == {
    *('MODEL_DIR', 'WEIGHTS', 'MIXTURE', 'EVAL_TASKS', 'DATA_PATH'),
    *('NUM_ITERATIONS', 'NUM_SAMPLES', 'NUM_TRAIN_PROBLEMS'),
    *('NUM_VALIDATION_PROBLEMS', 'NUM_TEST_PROBLEMS', 'SEED', 'CHECKPOINT'),
    *('OUTPUT', 'TOPOLOGY'),
  }


@pytest.mark.parametrize('recipe', RECIPES)
def test_the_papers_settings(recipe, build):
  system = build(recipe)
  policy = system.sampling.policy
  assert (policy.temperature, policy.top_k) == (0.7, 40)
  assert system.selection.max_per_problem == 10
  assert system.init == 'base'


def test_lora_is_a_file_on_top(build, refused):
  assert build('math.gin').trainer.lora is None
  system = build('math.gin', 'training/lora.gin')
  assert system.trainer.lora == lora.Lora(rank=16, alpha=32.0)
  line = refused('math.gin', '--gin_file=training/lora.gin',
                 "--gin.lora.Lora.targets=['query']")  # fmt: skip
  assert "Lora.targets=['query']; write a list of some of q, k, v" in line


def test_math_has_transfer_tasks(build):
  system = build('math.gin', EVAL_TASKS=['gsm8k', 'hendrycks_math'])
  assert [t.name for t in system.eval_tasks] == ['gsm8k', 'hendrycks_math']
  assert system.task.name == 'arithmetic'
  assert build('math.gin', MIXTURE='gsm8k').task.name == 'gsm8k'


@pytest.mark.parametrize(
  'recipe, flag, words',
  [
    (
      'math.gin',
      "--gin.MIXTURE='maths'",
      "'maths'; write one of arithmetic, g",
    ),
    (
      'math.gin',
      "--gin.EVAL_TASKS=['gsm']",
      "'gsm'; write one of arithmetic, ",
    ),
    ('jsonl.gin', "--gin.MIXTURE='mine'", "'mine'; write one of jsonl"),
  ],
)
def test_an_unknown_task_is_one_line(refused, recipe, flag, words):
  assert f'no task is called {words}' in refused(recipe, flag)


def test_a_mistake_is_one_line(refused):
  line = refused('jsonl.gin', '--gin.select.Selection.max_per_problem=0')
  assert 'Selection.max_per_problem=0; write 1 or more' in line
  assert 'num_epochs' in refused('math.gin', '--gin.trainer.Trainer.epochs=1')
  assert 'WEIGHTS' in refused('jsonl.gin', "--gin.WEIGHT='w'")


def published(folder):
  return sorted(
    f'{folder}/{p.name}' for p in (commandline.RECIPES / folder).glob('*.gin')
  )


@pytest.mark.parametrize('model', published('models'))
def test_a_model_has_its_published_size(model, build):
  """The number of parameters that its header states is that of its shapes."""
  system = build('jsonl.gin', model)
  weights, config = system.architecture
  assert weights == system.weights
  header = (
    (commandline.RECIPES / model).read_text().partition('from __gin__')[0]
  )
  header = ' '.join(header.replace('#', ' ').split())
  assert f'{config.num_params:,} parameters' in header
  # Nothing is downloaded for it.
  assert precompile.setup_of(system).config is config


def test_the_recipes_architecture_is_not_taken_for_other_weights(build):
  system = build('jsonl.gin', 'models/llama3_8b.gin', WEIGHTS='/nowhere.gguf')
  with pytest.raises(ValueError, match=r'/nowhere\.gguf'):
    precompile.setup_of(system)


# Not those that take whatever devices there are.
@pytest.mark.parametrize(
  'mesh', [m for m in published('meshes') if m[-5].isdigit()]
)
def test_a_mesh_takes_its_batch(mesh, build):
  system = build('jsonl.gin', mesh)
  numbers = mesh.removesuffix('.gin').replace('x', '_').split('_')
  num_devices = int(numbers[-1])
  shape = system.mesh.make([object()] * num_devices).shape
  rows = system.trainer.batch_size / system.trainer.num_microbatches
  assert rows % (shape['data'] * shape['fsdp']) == 0
  if system.topology != 'local':
    hardware_name, _, grid = system.topology.partition(':')
    assert hardware_name in hardware.CHIPS
    assert math.prod(map(int, grid.split('x'))) == num_devices
