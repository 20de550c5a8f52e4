"""What a run is told of where it runs, and where its log goes.

Out: versions of Python, the libraries and the code; log lines on stderr; what a
full disk is called. What is *not* here: metrics and progress bars (`metrics`).
"""

from collections.abc import Iterator
import contextlib
import errno
import importlib.metadata
import logging
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
from typing import Any

import rich
import rich.logging

_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent

# Distributions whose version can change a run's result.
_VERSIONED = (
  'restem_jax',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'grain',
  'tokenizers',
  'numpy',
)


# Lines that abseil's C++ log writes at level INFO, and its excuse for them.
_NOISE = re.compile(rb'I\d{4} |WARNING: All log messages before absl::Init')

# As Orbax's and TensorStore's errors, which have no errno, spell it.
_FULL = re.compile('No space left on device|Disk quota exceeded')


class FullDisk(Exception):
  """A disk is full; the message tells users what to do."""


def versions() -> dict[str, str]:
  """Versions of Python, the libraries and the code, for config.gin."""
  found = {'python': platform.python_version()}
  for name in _VERSIONED:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  if revision := git_revision(_CHECKOUT):
    found['revision'] = revision
  return found


def git_revision(checkout: pathlib.Path) -> str:
  """The commit of a checkout, with '+changes' if any; '' if it is none."""
  if not (checkout / '.git').exists():
    return ''

  def git(*arguments: str) -> str:
    return subprocess.run(
      ['git', '-C', str(checkout), *arguments],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    changed = git('status', '--porcelain', '--untracked-files=no')
    return git('rev-parse', 'HEAD') + ('+changes' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return ''  # no git here, or no commit yet


def use_compilation_cache(folder: pathlib.Path) -> None:
  """Keeps compiled programs in `folder`, for later processes.

  A folder that JAX's own setting names (JAX_COMPILATION_CACHE_DIR) stays.
  """
  import jax  # here: a mistake on the command line is told without it

  config: Any = jax.config

  if config.jax_compilation_cache_dir is None:
    config.update('jax_compilation_cache_dir', str(folder))
  # Small programs add up: the default leaves out what compiles in a second.
  config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


@contextlib.contextmanager
def without_import_noise() -> Iterator[None]:
  """Keeps from stderr what TensorFlow's C++ code says while it is loaded.

  No setting silences those lines: they come before its log is set up. So what
  reaches the descriptor meanwhile is held back, and shown afterwards without
  them.
  """
  try:
    sys.stderr.flush()
    kept = os.dup(2)
  except OSError:  # started without a stderr
    yield
    return
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(kept, 2)
      os.close(kept)
      held.seek(0)
      for line in held:
        if not _NOISE.match(line):
          os.write(2, line)


def log_as(name: str) -> None:
  """Has this process log what is wrong only, under a name: others tell more."""
  logging.getLogger('restem_jax').setLevel(logging.WARNING)
  for handler in logging.getLogger().handlers:
    if isinstance(handler, logging.StreamHandler):
      handler.setFormatter(
        logging.Formatter(f'%(asctime)s {name} %(levelname)s %(message)s')
      )


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
  """Shows the project's log from INFO on, all others' from WARNING on."""
  if sys.stderr.isatty():
    # The global console, so that progress bars and log lines know each other.
    rich.reconfigure(stderr=True)
    handler = rich.logging.RichHandler(
      console=rich.get_console(), show_path=False, log_time_format='[%X]'
    )
  else:
    handler = logging.StreamHandler()
    handler.setFormatter(
      logging.Formatter('%(asctime)s %(levelname)s %(message)s', '%H:%M:%S')
    )
  levels = {'': logging.WARNING, 'restem_jax': logging.INFO}
  # These set their own level, or are chatty at WARNING's doorstep.
  levels |= dict.fromkeys(('absl', 'jax', 'orbax'), logging.WARNING)
  before = {name: logging.getLogger(name).level for name in levels}
  for name, level in levels.items():
    logging.getLogger(name).setLevel(level)
  logging.getLogger().addHandler(handler)
  try:
    yield
  finally:
    logging.getLogger().removeHandler(handler)
    for name, level in before.items():
      logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def full_disks_told() -> Iterator[None]:
  """Whatever ends the body because a disk is full becomes a FullDisk."""
  try:
    yield
  except Exception as e:
    cause: BaseException | None = e
    while cause is not None:
      full = getattr(cause, 'errno', None) in (errno.ENOSPC, errno.EDQUOT)
      if full or _FULL.search(str(cause)):
        what = str(cause).splitlines()[0]
        raise FullDisk(
          f'a disk is full ({what}); make room, then write the same command: it '
          'goes on from what is complete'
        ) from e
      cause = cause.__cause__ or cause.__context__
    raise
