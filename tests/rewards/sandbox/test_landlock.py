import subprocess
import sys

import pytest

from restem_jax.rewards.sandbox import landlock

CODE = """
import os, sys
from restem_jax.rewards.sandbox import landlock
allowed, other = sys.argv[1:]
landlock.restrict([allowed], ['/dev/null', '/no/such/path'])
print(open(allowed + '/file').read(), os.listdir(allowed))
open('/dev/null', 'w').write('x')
for attempt in (
  lambda: open(other + '/file'),
  lambda: os.listdir(other),
  lambda: open(allowed + '/new', 'w'),
  lambda: os.unlink(allowed + '/file'),
):
  try:
    attempt()
    print('LEAK')
  except PermissionError:
    print('refused')
"""


def test_restrict(tmp_path):
  if not landlock.abi():
    pytest.skip('this kernel has no Landlock')
  for name in ('allowed', 'other'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'file').write_text('hello')
  result = subprocess.run(
    [
      sys.executable,
      *('-c', CODE, str(tmp_path / 'allowed'), str(tmp_path / 'other')),
    ],
    capture_output=True,
    text=True,
  )
  expected = ["hello ['file']", *['refused'] * 4]
  assert result.stdout.splitlines() == expected, result.stderr
  assert (tmp_path / 'allowed' / 'file').exists()
