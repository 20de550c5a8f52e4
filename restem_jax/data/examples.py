"""Training examples on disk: one ArrayRecord file of token ids and weights.

In and out: `records.Example`. A record is a msgpack map {id: text,
prompt_ids: int32 bytes, target_ids: int32 bytes (little-endian), weight:
float}; nothing in a file is ever executed. The same examples give the same
bytes. Drawing a mixture is `data.seqio_mixture`, batching is
`training.batches`.
"""

from collections.abc import Iterable, Iterator, Sequence
import hashlib
import math
import os
import secrets
import tempfile
from typing import Any, overload

from array_record.python import (
  array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)
from etils import epath
import msgpack
import numpy as np

from restem_jax.records import Example

# One record per chunk: any record can be read without its neighbours.
_WRITER_OPTIONS = 'group_size:1'
_READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'
_FIELDS = {'id', 'prompt_ids', 'target_ids', 'weight'}


def encode(example: Example) -> bytes:
  """One record; ValueError for ids beyond int32 or a weight not finite."""
  if not math.isfinite(example.weight):
    raise ValueError(
      f'example {example.id!r}: weight {example.weight} is not finite'
    )
  if not example.target_ids:
    raise ValueError(f'example {example.id!r}: there are no target tokens')
  record = msgpack.packb(
    {
      'id': example.id,
      'prompt_ids': _pack_ids(example.id, example.prompt_ids),
      'target_ids': _pack_ids(example.id, example.target_ids),
      'weight': float(example.weight),
    }
  )
  assert record is not None
  return record


def _pack_ids(name: str, ids: Sequence[int]) -> bytes:
  if ids and not 0 <= min(ids) <= max(ids) < 2**31:
    raise ValueError(f'example {name!r}: token ids must be within 0 to 2^31-1')
  return np.asarray(ids, '<i4').tobytes()


def decode(record: bytes) -> Example:
  """The example of one record; ValueError if it is not one."""
  try:
    row = msgpack.unpackb(record)
    if not isinstance(row, dict) or set(row) != _FIELDS:
      raise ValueError(f'the fields are not {sorted(_FIELDS)}')
    if not isinstance(row['id'], str) or not isinstance(row['weight'], float):
      raise ValueError('id is no text or weight no float')
    return Example(
      id=row['id'],
      prompt_ids=tuple(np.frombuffer(row['prompt_ids'], '<i4').tolist()),
      target_ids=tuple(np.frombuffer(row['target_ids'], '<i4').tolist()),
      weight=row['weight'],
    )
  except (ValueError, TypeError, msgpack.UnpackException) as e:
    raise ValueError(f'not a training example ({e})') from None


def write_examples(path: epath.PathLike, examples: Iterable[Example]) -> int:
  """Writes the file; it appears under its name only when it is complete.

  Returns:
    The number of examples.

  Raises:
    ValueError: for an example that can't be trained on; nothing is written.
    OSError: if the disk is full; nothing is written either.
  """
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # The infix by which `shards.clean` knows what a killed process left.
  unfinished = path.parent / f'{path.name}.tmp-{secrets.token_hex(4)}'
  is_local = '://' not in os.fspath(path)
  try:
    # The writer knows only local files: a remote one is written here first.
    with tempfile.TemporaryDirectory() as scratch:
      local = os.fspath(unfinished) if is_local else f'{scratch}/examples'
      count = _write_local(local, examples)
      if not is_local:
        epath.Path(local).copy(unfinished)
    unfinished.replace(path)
  finally:
    unfinished.unlink(missing_ok=True)
  return count


def _write_local(path: str, examples: Iterable[Example]) -> int:
  writer = array_record_module.ArrayRecordWriter(path, _WRITER_OPTIONS)
  count = 0
  try:
    for example in examples:
      writer.write(encode(example))
      count += 1
  finally:
    writer.close()
  # The writer does not say that the disk is full; a reader does.
  reader = array_record_module.ArrayRecordReader(path, _READER_OPTIONS)
  if not reader.ok() or reader.num_records() != count:
    raise OSError(f'{path}: could not be written whole; is the disk full?')
  reader.close()
  with open(path, 'rb') as file:
    # Without it a power cut can leave a renamed file with no content.
    os.fsync(file.fileno())
  return count


class _Examples(Sequence[Example]):
  """Examples of one file, each read when it is asked for; can be pickled."""

  def __init__(self, path: epath.PathLike):
    self._path = str(path)
    self._open()

  def _open(self) -> None:
    path = epath.Path(self._path)
    if not path.exists():
      raise ValueError(f'{path}: there is no such file; check the path')
    local = self._path
    self._scratch = None
    if '://' in self._path:
      self._scratch = tempfile.TemporaryDirectory()
      local = f'{self._scratch.name}/examples'
      path.copy(local)
    self._reader = array_record_module.ArrayRecordReader(local, _READER_OPTIONS)
    # A cut or foreign file opens without an error, as one of no records.
    if not self._reader.ok():
      raise self._damaged('it is cut short, or no ArrayRecord file')

  def _damaged(self, why: object) -> ValueError:
    return ValueError(
      f'{self._path}: damaged ({why}); delete it and run the stage that'
      f' writes it again'
    )

  def __getstate__(self) -> str:
    return self._path

  def __setstate__(self, path: str) -> None:
    self._path = path
    self._open()

  def __len__(self) -> int:
    return self._reader.num_records()

  @overload
  def __getitem__(self, index: int) -> Example: ...
  @overload
  def __getitem__(self, index: slice) -> list[Example]: ...
  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    size = len(self)
    if not -size <= index < size:
      raise IndexError(f'{self._path}: {index} of {size} examples')
    index %= size
    try:
      return decode(self._reader.read([int(index)])[0])
    except (RuntimeError, ValueError, IndexError) as e:
      raise self._damaged(f'record {index}: {e}') from None

  def __iter__(self) -> Iterator[Example]:
    return (self[i] for i in range(len(self)))

  def __repr__(self) -> str:
    return f'{type(self).__name__}({self._path!r}, {len(self)} examples)'


def read_examples(path: epath.PathLike) -> Sequence[Example]:
  """The examples of a file, in order; random access, so that Grain can read it.

  Raises:
    ValueError: here for a file that is missing, cut or foreign; on access for
      a record whose checksum or content is wrong.
  """
  return _Examples(path)


def fingerprint(examples: Iterable[Example]) -> str:
  """sha256 (hex) over the content of the examples in their order."""
  digest = hashlib.sha256()
  for example in examples:
    record = encode(example)
    digest.update(len(record).to_bytes(8, 'little') + record)
  return digest.hexdigest()
