"""The rules of the tree: who imports whom, sizes, names, recipes."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import restem_jax

PACKAGE = pathlib.Path(restem_jax.__file__).parent
ROOT = PACKAGE.parent
TESTS = pathlib.Path(__file__).parent
MODULES = sorted(PACKAGE.rglob('*.py'))
RECIPES = sorted((ROOT / 'gin').rglob('*.gin'))

# Level 0 knows nothing of the project; all above may use it.
NOUNS = {
  'commandline',
  'environment',
  'memory',
  'metrics',
  'records',
  'shards',
  'tokenizer',
}
MACHINE = {
  'partitioning',
  'checkpoints',
  'meetings',
  'multihost',
  'rendezvous',
}
PARTS = {'models', 'rewards', 'data', 'weights', 'sampling', 'training'}

# What each part may import from restem_jax besides itself.
MAY_IMPORT = {
  **{noun: set() for noun in NOUNS},
  'partitioning': {'shards'},
  'checkpoints': {'shards'},
  'rendezvous': set(),
  'meetings': {'rendezvous'},
  'multihost': {'meetings', 'rendezvous'},
  'models': {'partitioning'},
  'rewards': {'records'},
  'data': {'records', 'shards', 'tokenizer'},
  'em': NOUNS | MACHINE | PARTS,
  'report': NOUNS | MACHINE | PARTS,
  'main': NOUNS | MACHINE | PARTS | {'em', 'report'},
}
for ribs in ('weights', 'sampling', 'training'):
  MAY_IMPORT[ribs] = NOUNS | MACHINE | {'models', 'rewards', 'data'}

TENSORFLOW = {
  'clu',
  'keras',
  'seqio',
  'tensorflow',
  'tensorflow_datasets',
  'tensorflow_text',
}


def name_of(path):
  """restem_jax/em/loop.py -> 'em.loop'; a package's own -> 'em'."""
  parts = path.relative_to(PACKAGE).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def ids(path):
  return str(path.relative_to(ROOT))


def imports(path):
  """Full names of all modules that a file imports, at any depth of it."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: a relative import'
      assert node.module is not None
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def own_parts(path):
  """The parts of restem_jax that a file imports: 'em', 'records', ..."""
  for name in imports(path):
    if name.startswith('restem_jax.'):
      yield name.split('.')[1]


@pytest.mark.parametrize('path', MODULES, ids=ids)
def test_layers(path):
  if path == PACKAGE / '__init__.py':
    assert not set(own_parts(path))
    return
  part = name_of(path).split('.')[0]
  assert part in MAY_IMPORT, f'{part} has no row in the import table'
  for used in own_parts(path):
    assert used == part or used in MAY_IMPORT[part], (
      f'{name_of(path)} imports {used}, which its level may not'
    )


def is_seqio(path):
  return path.parent == PACKAGE / 'data' and path.name.startswith('seqio_')


@pytest.mark.parametrize('path', MODULES, ids=ids)
def test_confinement(path):
  roots = {name.split('.')[0] for name in imports(path)}
  if not is_seqio(path):
    assert not roots & TENSORFLOW, 'only data/seqio_*.py may use TensorFlow'
    # A recipe's import line, not a module, is what loads TensorFlow.
    assert not any('.data.seqio_' in f'.{name}' for name in imports(path))
  if path != PACKAGE / 'main.py':
    assert 'gin' not in roots, 'only main.py knows gin'
  if path.is_relative_to(PACKAGE / 'rewards'):
    assert not roots & {'jax', 'jaxlib', 'flax', 'optax', 'orbax'}


def check_imports(paths, blocked):
  """Imports modules in a process where others cannot be imported."""
  lines = ['import sys']
  lines += [f'sys.modules[{name!r}] = None' for name in sorted(blocked)]
  names = [f'restem_jax.{name_of(path)}'.rstrip('.') for path in paths]
  lines += [f'import {name}' for name in names]
  code = '\n'.join(lines)
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr


def test_imports_without_tensorflow():
  rewards = PACKAGE / 'rewards'
  paths = [p for p in MODULES if not p.is_relative_to(rewards)]
  check_imports([p for p in paths if not is_seqio(p)], TENSORFLOW)


def test_rewards_import_without_jax():
  """Processes that touch model text start without jax.

  On their own also because a worker's module shuts doors (numpy) behind it.
  """
  paths = [p for p in MODULES if p.is_relative_to(PACKAGE / 'rewards')]
  check_imports(paths, TENSORFLOW | {'jax', 'jaxlib', 'flax', 'optax'})


@pytest.mark.parametrize('path', MODULES, ids=ids)
def test_module(path):
  text = path.read_text(encoding='utf-8')
  assert len(text.splitlines()) <= 400, 'over 400 lines: find a natural seam'
  words = set(path.stem.split('_'))
  assert not words & {'utils', 'util', 'helpers', 'helper', 'misc', 'common'}
  if text.strip():
    assert ast.get_docstring(ast.parse(text)), 'a module says what it is'


def test_every_folder_is_a_package():
  """Without __init__.py a folder would be missing from the wheel."""
  for folder in {path.parent for path in MODULES}:
    assert (folder / '__init__.py').exists(), folder


@pytest.mark.parametrize('path', MODULES, ids=ids)
def test_tests_mirror_the_package(path):
  if not path.read_text(encoding='utf-8').strip():
    return  # an empty __init__.py
  *folders, name = name_of(path).split('.')
  mirror = TESTS.joinpath(*folders, f'test_{name}.py')
  assert mirror.exists(), f'{mirror.relative_to(ROOT)} is missing'


def test_tests_have_no_packages():
  """With --import-mode=importlib they need none, and one would shadow."""
  assert not list(TESTS.rglob('__init__.py'))


# --- Recipes ------------------------------------------------------------------


def test_only_gin_files_under_gin():
  """An __init__.py there would shadow the gin library."""
  files = [path for path in (ROOT / 'gin').rglob('*') if path.is_file()]
  assert files and {path.suffix for path in files} == {'.gin'}


@pytest.mark.parametrize('path', RECIPES, ids=ids)
def test_recipe(path):
  lines = path.read_text(encoding='utf-8').splitlines()
  assert lines[0].startswith('#'), 'a gin file begins with what it is'
  # runs/ and tasks/ hold the parts that recipes are made of.
  if path.parent.name not in ('runs', 'tasks'):
    assert len(lines) <= 25, 'a recipe is at most 25 lines'
  if path.parent != ROOT / 'gin':
    return
  header = '\n'.join(line for line in lines if line.startswith('#'))
  # What to type, on what, how long it takes, and what to expect.
  command = re.search(r'^#\s*command:\s*(.*)$', header, re.M | re.I)
  assert command, 'no "# Command:" in the header'
  assert f'--gin_file={path.name}' in header
  for field in ('hardware', 'time', 'expect'):
    found = re.search(rf'^#\s*{field}:\s*(.*)$', header, re.M | re.I)
    assert found, f'no "# {field.title()}:" in the header'
    assert re.search(r'\d', found[1]), f'{field}: no number in {found[1]!r}'
