"""Makes a Python usable whose home the sandbox's user cannot enter.

As root without namespaces (tier 2) the fork server changes to another user. If
the interpreter lies under a directory of mode 700 (pyenv under /root), that
user can't import one more module. So the server first changes its root to the
Python prefix, which also hides the rest of the disk, and points every import
path there.

In: the prefix; out: a changed root and changed paths. What lies outside the
prefix is out of reach from then on: shared libraries (so the standard library's
extension modules are loaded before), /dev/null, and site-packages of a virtual
environment (preloaded packages work as far as they were loaded). A Python that
all users may read, as container images have it, needs none of this.
"""

import contextlib
import importlib
import importlib.machinery
import os
import stat
import sys

# Extensions that want a terminal, a display or a test suite.
_LEFT_OUT = ('_test', 'xx', '_tkinter', '_curses', 'readline', '_xx', 'nis')


def reachable(path: str) -> bool:
  """Whether any user may enter `path` and read in it."""
  path = os.path.realpath(path)
  needed = stat.S_IROTH | stat.S_IXOTH
  while True:
    if os.stat(path).st_mode & needed != needed:
      return False
    if path == '/':
      return True
    path, needed = os.path.dirname(path), stat.S_IXOTH


def change_root(prefix: str) -> None:
  """Loads the extension modules, then makes `prefix` the root directory.

  Raises:
    OSError: without CAP_SYS_CHROOT.
  """
  _load_extensions()
  prefix = os.path.realpath(prefix)
  os.chroot(prefix)
  os.chdir('/')
  sys.path[:] = [inside(p, prefix) for p in sys.path]
  for module in list(sys.modules.values()):
    paths = getattr(module, '__path__', None)
    if isinstance(paths, list):
      paths[:] = [inside(p, prefix) for p in paths]
  sys.path_importer_cache.clear()


def inside(path: str, prefix: str) -> str:
  """The path's name once `prefix`, a real path, is the root directory."""
  real = os.path.realpath(path)
  return real.removeprefix(prefix) if real.startswith(prefix + '/') else path


def _load_extensions() -> None:
  suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
  for directory in sys.path:
    if not directory.endswith('lib-dynload'):
      continue
    for name in os.listdir(directory):
      module = name.removesuffix(suffix)
      if name.endswith(suffix) and not module.startswith(_LEFT_OUT):
        with contextlib.suppress(ImportError):
          importlib.import_module(module)
