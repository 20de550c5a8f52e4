"""The user's cache folder: downloads, checksums, converted vocabularies.

In: nothing but the environment. Out: its root, atomic writes into it, and
SHA-256 sums of large files that are computed once. Not here: what is fetched
from where (`resolve`).
"""

import contextlib
import hashlib
import os
import pathlib
import tempfile


def root() -> pathlib.Path:
  """$RESTEM_CACHE, else $XDG_CACHE_HOME/restem_jax, else ~/.cache/restem_jax."""
  if os.environ.get('RESTEM_CACHE'):
    return pathlib.Path(os.environ['RESTEM_CACHE']).expanduser()
  base = os.environ.get('XDG_CACHE_HOME')
  base = pathlib.Path(base) if base else pathlib.Path.home() / '.cache'
  return base / 'restem_jax'


@contextlib.contextmanager
def atomic(path: pathlib.Path):
  """Yields a temporary path that becomes `path` when the block succeeds.

  Readers see the whole file or none, however many processes write it.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(
    dir=path.parent, prefix=f'.{path.name}.'
  ) as folder:
    temporary = pathlib.Path(folder) / path.name
    yield temporary
    os.replace(temporary, path)


def key(path: os.PathLike[str] | str) -> str:
  """A name for this state of a local file: of its path, size and mtime."""
  path = pathlib.Path(path).resolve()
  stat = path.stat()
  text = f'{path}\n{stat.st_size}\n{stat.st_mtime_ns}'
  return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_sha256(path: os.PathLike[str] | str) -> str:
  """SHA-256 (hex) of a local file's bytes, remembered by `key`."""
  remembered = root() / 'sha256' / key(path)
  if remembered.exists():
    return remembered.read_text().strip()
  digest = compute_sha256(path)
  with atomic(remembered) as temporary:
    temporary.write_text(digest + '\n')
  return digest


def compute_sha256(path: os.PathLike[str] | str) -> str:
  """SHA-256 (hex) of a local file's bytes, read now."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()
