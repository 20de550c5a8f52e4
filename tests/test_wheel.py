"""A wheel and an sdist, as built from this checkout, hold the recipes."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

import restem_jax

ROOT = pathlib.Path(restem_jax.__file__).parents[1]

SYSTEM = """
import dataclasses

@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
  config_text: str = ''
  versions: dict | None = None

  def em(self):
    print(self.config_text)
"""

RECIPE = """
from __gin__ import dynamic_registration
import probe_system
from restem_jax import main

include 'probes/seed.gin'
main.run.system = @probe_system.System()
"""


def run(*command, cwd, **env):
  result = subprocess.run(
    [sys.executable, *command],
    cwd=cwd,
    env=dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK='1', **env),
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A copy of what is packaged (a build writes into its source folder)."""
  if not (ROOT / 'setup.py').exists():
    pytest.skip('needs a checkout: restem_jax is imported from a wheel')
  folder = tmp_path_factory.mktemp('source')
  for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in'):
    shutil.copy(ROOT / name, folder)
  for name in ('README.md', 'LICENSE', 'CHANGELOG.md'):
    shutil.copy(ROOT / name, folder)
  ignore = shutil.ignore_patterns('__pycache__')
  for name in ('restem_jax', 'gin'):
    shutil.copytree(ROOT / name, folder / name, ignore=ignore)
  (folder / 'gin' / 'probes').mkdir()
  (folder / 'gin' / 'probes' / 'seed.gin').write_text('SEED = 7\n')
  (folder / 'gin' / 'probe.gin').write_text(RECIPE)
  return folder


def recipes(folder):
  return {str(path.relative_to(folder)) for path in folder.rglob('*.gin')}


def test_wheel(source, tmp_path):
  build = ['wheel', '--no-deps', '--no-build-isolation', '--wheel-dir']
  run('-m', 'pip', *build, str(tmp_path), str(source), cwd=tmp_path)
  (wheel,) = tmp_path.glob('*.whl')
  site = tmp_path / 'site'
  install = ['install', '--no-deps', '--target', str(site), str(wheel)]
  run('-m', 'pip', *install, cwd=tmp_path)
  package = site / 'restem_jax'
  assert recipes(package / '_gin') == recipes(source / 'gin')
  # Every module, those of the newest folder included.
  wanted = (source / 'restem_jax').rglob('*.py')
  assert {str(path.relative_to(site)) for path in package.rglob('*.py')} == {
    str(path.relative_to(source)) for path in wanted
  }
  # Nothing of the checkout's own top level lands among the user's packages.
  assert not (site / 'gin').exists() and not (site / 'tests').exists()

  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  (elsewhere / 'probe_system.py').write_text(SYSTEM)
  out = run(
    '-m',
    'restem_jax.main',
    '--gin_file=probe.gin',
    cwd=elsewhere,
    PYTHONPATH=f'{site}{os.pathsep}{elsewhere}',
  )
  assert 'SEED = 7' in out.splitlines()


def test_sdist(source, tmp_path):
  run('setup.py', '-q', 'sdist', '--dist-dir', str(tmp_path), cwd=source)
  (archive,) = tmp_path.glob('*.tar.gz')
  with tarfile.open(archive) as tar:
    files = {name.partition('/')[2] for name in tar.getnames()}
  assert {f'gin/{name}' for name in recipes(source / 'gin')} <= files
  assert {'LICENSE', 'README.md', 'pyproject.toml', 'setup.py'} <= files
