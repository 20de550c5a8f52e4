"""Bytes in use, of the device or, where that is the CPU, of this process."""

import pathlib

import jax

_STATUS = pathlib.Path('/proc/self/status')


def in_use() -> int:
  """Now."""
  return _bytes('VmRSS', 'bytes_in_use')


def peak() -> int:
  """At most, since `forget_peak` or, on a device, since the process began."""
  return _bytes('VmHWM', 'peak_bytes_in_use')


def forget_peak() -> None:
  """Lets the process's peak begin at what is in use; a device has no such."""
  pathlib.Path('/proc/self/clear_refs').write_text('5')


def resident(field: str = 'VmRSS') -> int:
  """Of this process, wherever it computes: now, or VmHWM, its peak."""
  for line in _STATUS.read_text().splitlines():
    if line.startswith(field + ':'):
      return int(line.split()[1]) * 1024
  raise ValueError(f'no {field} in {_STATUS}')


def _bytes(field: str, stat: str) -> int:
  stats = jax.local_devices()[0].memory_stats()
  return stats[stat] if stats else resident(field)
