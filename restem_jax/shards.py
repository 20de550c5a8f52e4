"""Files that are whole or absent: atomic, checksummed JSONL shards.

In: lines of JSON (`records.to_json`). Out: `<shard>` and, after it, its marker
`<shard>.done`, the JSON object {"sha256", "rows", "bytes"}. Both appear by
rename, so that a process killed at any moment leaves no half of either; a
shard counts only when its marker is there and its bytes are those that the
marker names. What is *not* here: which shards a stage has, and what a row
means (`records`).

Paths are local or `gs://` (`etils.epath`). A bucket has no rename that could
be interrupted half-way either: an object appears when its write ends, and a
rename copies whole objects.
"""

from collections.abc import Iterable
import contextlib
import hashlib
import json
import logging
import os
import secrets
from typing import Any, Literal

from etils import epath

_logger = logging.getLogger(__name__)

Status = Literal['complete', 'missing', 'damaged']

# Infix of the names of files being written; `clean` removes what a killed
# process left of them.
_TEMP = '.tmp-'


def write_shard(path: epath.PathLike, rows: Iterable[str]) -> None:
  """Writes `rows`, one JSON text each, as a shard with its marker.

  A shard already under this name is replaced; its marker goes first, so that
  at no moment a marker vouches for another shard's bytes.

  Args:
    path: the shard's file; its directory is made if needed.
    rows: JSON texts without newlines, in the order to keep.

  Raises:
    OSError: the disk is full or unwritable; nothing is visible then, and no
      temporary file stays.
  """
  path = epath.Path(path)
  marker = _marker(path)
  marker.unlink(missing_ok=True)
  digest = hashlib.sha256()
  num_rows = num_bytes = 0
  with _replacing(path) as file:
    for row in rows:
      assert '\n' not in row, f'{path}: a row holds a newline: {row[:80]!r}'
      # Half a surrogate pair has no UTF-8; its backslash form, \udc80, is
      # JSON's own way to write it.
      line = row.encode('utf-8', 'backslashreplace') + b'\n'
      file.write(line)
      digest.update(line)
      num_rows += 1
      num_bytes += len(line)
  summary = {
    'sha256': digest.hexdigest(),
    'rows': num_rows,
    'bytes': num_bytes,
  }
  write_atomic(marker, json.dumps(summary) + '\n')


def read_shard(path: epath.PathLike) -> list[Any]:
  """Returns the parsed rows of a complete shard.

  Raises:
    ValueError: the shard or its marker is missing, or the bytes are not those
      that the marker names; the message names file and checksums.
  """
  path = epath.Path(path)
  # One read serves the check and the parsing: what is used is what was
  # verified.
  data, fault = _verified(path)
  if data is None:
    raise ValueError(f'{fault}; delete it and its marker to have it redone')
  # splitlines would also split at U+2028 and its kin inside strings.
  return [json.loads(line) for line in data.split(b'\n')[:-1]]


def status(path: epath.PathLike) -> Status:
  """Says whether a shard can be used; a damaged one is named in the log.

  `missing` covers a shard without a marker: its writer was killed between the
  two renames, and the shard is to be written again.
  """
  path = epath.Path(path)
  if not (path.exists() and _marker(path).exists()):
    return 'missing'
  data, fault = _verified(path)
  if data is not None:
    return 'complete'
  _logger.warning('%s; it will be redone', fault)
  return 'damaged'


def write_atomic(path: epath.PathLike, content: bytes | str) -> None:
  """Writes a whole file (text as UTF-8) that is never seen half-written.

  Raises:
    OSError: as `write_shard`.
  """
  data = content.encode('utf-8') if isinstance(content, str) else content
  with _replacing(epath.Path(path)) as file:
    file.write(data)


def clean(directory: epath.PathLike, pattern: str = '*') -> list[str]:
  """Removes what killed processes left half-written; returns the names.

  Args:
    directory: where to look, not below it; it need not exist.
    pattern: glob of the shards' own names. On a directory that several hosts
      write to, each passes the pattern of its own shards: a temporary file of
      a live host is no left-over.
  """
  directory = epath.Path(directory)
  if not directory.exists():
    return []
  removed = []
  for path in sorted(directory.glob(f'{pattern}{_TEMP}*')):
    path.unlink(missing_ok=True)
    removed.append(path.name)
  if removed:
    _logger.info(
      'removed %d half-written files from %s', len(removed), directory
    )
  return removed


def _marker(path: epath.Path) -> epath.Path:
  return path.parent / f'{path.name}.done'


def _verified(path: epath.Path) -> tuple[bytes | None, str]:
  """Returns (the shard's bytes, ''), or (None, what is wrong with it)."""
  try:
    marker = json.loads(_marker(path).read_bytes())
    expected = marker['sha256'], marker['bytes']
  except FileNotFoundError:
    return None, f'{path}: the marker {path.name}.done is missing'
  except (ValueError, KeyError, TypeError) as e:
    return None, f'{path}: the marker {path.name}.done is damaged ({e!r})'
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    return None, f'{path}: the shard is missing, its marker is there'
  found = hashlib.sha256(data).hexdigest(), len(data)
  if found != expected:
    return None, (
      f'{path} is damaged: expected sha256 {expected[0]} ({expected[1]} '
      f'bytes), found {found[0]} ({found[1]} bytes)'
    )
  return data, ''


@contextlib.contextmanager
def _replacing(path: epath.Path):
  """Opens a temporary file beside `path` that becomes `path` on success."""
  path.parent.mkdir(parents=True, exist_ok=True)
  # The random part keeps two hosts with equal process ids apart.
  temp = path.parent / f'{path.name}{_TEMP}{secrets.token_hex(4)}'
  local = '://' not in os.fspath(path)
  try:
    with temp.open('wb') as file:
      yield file
      if local:
        # Without it a power cut can leave a renamed file with no content.
        file.flush()
        os.fsync(file.fileno())
    temp.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      temp.unlink(missing_ok=True)
    raise
  if local:
    _sync_directory(path.parent)


def _sync_directory(directory: epath.Path) -> None:
  """Makes a rename inside `directory` survive a power cut."""
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
