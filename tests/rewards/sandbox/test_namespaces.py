CODE = """
uid = isolate(view.View((sys.argv[1],), ()))
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


def test_isolate(tmp_path, confined):
  """The bound directory is all there is, though it lies below /tmp."""
  (tmp_path / 'file').write_text('hello')
  tmp_path.chmod(0o755)
  seen = confined(CODE, str(tmp_path))
  top = str(tmp_path).split('/')[1]
  assert seen == {
    'root': sorted({'dev', top}),
    'file': 'hello',
    'written': False,
    'pid': 1,
    'uid': 65534,
    'host': 'sandbox',
  }
