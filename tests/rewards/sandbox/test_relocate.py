import os
import subprocess
import sys

import pytest

from restem_jax.rewards.sandbox import relocate


def test_reachable(tmp_path):
  inner = tmp_path / 'closed' / 'inner'
  inner.mkdir(parents=True)
  inner.chmod(0o755)
  (tmp_path / 'closed').chmod(0o700)
  assert relocate.reachable('/usr/lib')
  assert not relocate.reachable(str(inner))


@pytest.mark.skipif(os.getuid() != 0, reason='chroot needs root')
def test_change_root():
  """Modules still load, submodules of loaded packages too; /etc is gone."""
  code = (
    'import os, sys\n'
    'from restem_jax.rewards.sandbox import relocate\n'
    'assert "csv" not in sys.modules and "xml" not in sys.modules\n'
    'relocate.change_root(sys.base_prefix)\n'
    'import csv, json.tool, xml.etree.ElementTree, sqlite3\n'
    'print(csv.__file__, os.path.exists("/etc"))\n'
  )
  result = subprocess.run(
    [os.path.realpath(sys.executable), '-S', '-c', code],
    env={'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)},
    capture_output=True,
    text=True,
  )
  version = f'python{sys.version_info[0]}.{sys.version_info[1]}'
  assert result.stdout.split() == [f'/lib/{version}/csv.py', 'False'], (
    result.stderr
  )
