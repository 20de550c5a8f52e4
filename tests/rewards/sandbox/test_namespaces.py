import json
import subprocess
import sys

import pytest

CODE = """
import json, os, sys
from restem_jax.rewards.sandbox import namespaces, syscalls, view
uid = 61000 if os.getuid() == 0 else None
try:
  namespaces.isolate(
    syscalls.table(), view.View((sys.argv[1],), ()), uid
  )
except OSError as e:
  sys.exit(f'refused: {e}')
pid = os.fork()
if pid:
  os.waitpid(pid, 0)
  os._exit(0)
if uid:
  os.setgroups([])
  os.setresgid(*[namespaces.INSIDE_ID] * 3)
  os.setresuid(*[namespaces.INSIDE_ID] * 3)
try:
  open(sys.argv[1] + '/new', 'w')
  written = True
except OSError:
  written = False
os.write(1, json.dumps({
  'root': sorted(os.listdir('/')),
  'file': open(sys.argv[1] + '/file').read(),
  'written': written,
  'pid': os.getpid(),
  'uid': os.getuid(),
  'host': os.uname().nodename,
}).encode())
"""


def test_isolate(tmp_path):
  """The bound directory is all there is, though it lies below /tmp."""
  (tmp_path / 'file').write_text('hello')
  tmp_path.chmod(0o755)
  result = subprocess.run(
    [sys.executable, '-c', CODE, str(tmp_path)],
    capture_output=True,
    text=True,
  )
  if 'refused' in result.stderr:
    pytest.skip(f'no namespaces here: {result.stderr}')
  seen = json.loads(result.stdout)
  top = str(tmp_path).split('/')[1]
  assert seen == {
    'root': sorted({'dev', top}),
    'file': 'hello',
    'written': False,
    'pid': 1,
    'uid': 65534,
    'host': 'sandbox',
  }
