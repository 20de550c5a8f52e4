"""The command line: gin files and flags in, one mode of the system run.

In: `--gin_file`, `--gin.NAME=VALUE`, `--gin_search_paths`, `--run_mode`. Out:
an exit code (0; 1 for a crash; 2 for a mistake in what was asked, told in one
line; 130 for Ctrl-C). This is the only module that imports gin: a recipe binds
`main.run.system` to an object whose public methods without arguments are the
modes. What is *not* here: what the modes do (`em.loop`).
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import inspect
import linecache
import os
import pathlib
import re
import sys
import tokenize
import traceback
from typing import Any

# Before anything can load TensorFlow's or XLA's C++ code.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

try:
  from gin import config as gin
except ImportError as e:
  # Without gin-config, the checkout's own gin/ is what `import gin` finds.
  raise ImportError('gin is missing: pip install gin-config') from e

from restem_jax import commandline, environment, memory
from restem_jax.commandline import Arguments, near, UsageError
from restem_jax.rendezvous import Missing
from restem_jax.weights import cache

_PACKAGE = pathlib.Path(__file__).resolve().parent
_GIN = pathlib.Path(gin.__file__).resolve().parent

# Macros that say where, not what: the run may be moved and stays the same.
_VOLATILE = frozenset({'MODEL_DIR', 'CHECKPOINT', 'OUTPUT', 'TOPOLOGY'})


def run(
  system: Any,
  run_mode: str = 'em',
  config_text: str = '',
  versions: Mapping[str, str] | None = None,
) -> Any:
  """Runs one mode of `system`, the object that a recipe binds here.

  Args:
    system: a dataclass with fields `config_text` and `versions`; its public
      methods that need no argument are the modes.
    run_mode: the name of such a method.
    config_text: canonical text of all bindings (see `canonical_config`).
    versions: of Python, the libraries and the code.

  Returns:
    What the mode returns.

  Raises:
    ValueError: there is no such mode; the message lists those there are.
  """
  modes = _modes(system)
  if run_mode not in modes:
    hint = near(run_mode, modes) or f'; write one of {", ".join(modes)}'
    raise UsageError(f'--run_mode={run_mode}: no such mode{hint}')
  system = dataclasses.replace(
    system, config_text=config_text, versions=dict(versions or {})
  )
  return getattr(system, run_mode)()


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line `argv` (default: sys.argv[1:]); the exit code."""
  try:
    code = _main(sys.argv[1:] if argv is None else argv)
  except BaseException:
    _leave_hosts(1)
    raise
  _leave_hosts(code)
  return code


def _main(argv: Sequence[str]) -> int:
  if '--help' in argv or '-h' in argv:
    try:
      print(commandline.help_text(), flush=True)
    except BrokenPipeError:  # `| head` has read enough: nothing to flush then
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  # epath: buckets by fsspec, not by TensorFlow, whether that is here or not.
  os.environ.setdefault('EPATH_USE_TF', 'false')
  try:
    with environment.logging_to_stderr():
      arguments = commandline.parse(argv)
      system, config_text = _configure(arguments)
      environment.use_compilation_cache(cache.root() / 'xla')
      memory.return_large_blocks()
      with _on_hosts(arguments), environment.full_disks_told():
        finished = run(
          system,
          run_mode=arguments.run_mode,
          config_text=config_text,
          versions=environment.versions(),
        )
      if finished is False:
        return arguments.preempted_exit_code
  except ValueError as e:
    # The library's own ValueErrors tell users what to write. One from below
    # (jax, numpy, int()) is a bug, and its traceback is wanted.
    if not _raised_under(e, _PACKAGE, on_purpose=True):
      raise
    message = re.sub(r'\n  In call to configurable .*', '', str(e))
    print(f'error: {message}', file=sys.stderr)
    return 2
  except (Missing, environment.FullDisk) as e:  # Missing: all hosts tell it
    print(f'error: {e}', file=sys.stderr)
    return 1
  except ImportError as e:
    if 'install gcsfs' not in str(e):
      raise
    print(
      "error: gs:// needs gcsfs; write pip install 'restem_jax[gcs]'",
      file=sys.stderr,
    )
    return 2
  except KeyboardInterrupt:
    print(
      'interrupted; the same command goes on from what is complete',
      file=sys.stderr,
    )
    return 130
  return 0


@contextlib.contextmanager
def _on_hosts(arguments: Arguments) -> Iterator[None]:
  """Connects with the other processes, if the command line names any."""
  if arguments.hosts is None:
    yield
    return
  # Not before: it loads jax.
  from restem_jax import multihost

  with multihost.started(multihost.Options(**arguments.hosts)):
    if not multihost.is_first():
      environment.log_as(f'process {multihost.index()}')
    yield


def _leave_hosts(code: int) -> None:
  """Ends this process at once if it has failed among several."""
  multihost = sys.modules.get('restem_jax.multihost')
  if multihost is not None and multihost.failed():
    if sys.exc_info()[0] is not None:
      traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def canonical_config() -> str:
  """The current gin configuration as text that equal runs share.

  Imports, then one line per macro and per binding, sorted; no comments, and
  without the macros that only say where things are.
  """
  # One line per binding makes the difference of two configurations readable.
  lines = gin.config_str(max_line_length=1_000_000).splitlines()
  return ''.join(
    f'{line}\n'
    for line in lines
    if line
    and not line.startswith('#')
    and line.split(' = ')[0] not in _VOLATILE
  )


# --- Gin ----------------------------------------------------------------------


def _configure(arguments: Arguments) -> tuple[Any, str]:
  """Reads files and bindings; returns the system and the canonical text."""
  gin.clear_config()  # gin's state is global: nothing of an earlier call stays
  search = ('', *arguments.search_paths, str(commandline.RECIPES))
  paths = [commandline.find(name, search) for name in arguments.gin_files]
  with _gin_search(search), environment.without_import_noise():
    for path in paths:
      with _one_line_errors(path):
        gin.parse_config_file(path)
  # With the files' imports, names on the command line mean what they mean in
  # the files.
  manager = gin.ImportManager(gin._IMPORTS)
  imports = [statement.format() for statement in manager.sorted_imports]
  known = set.union(*_macros())
  for name, value in arguments.bindings:
    flag = f'--gin.{name}={value}'
    if re.fullmatch(r'\w+', name) and name not in known:
      hint = near(name, known) or f'; there is {", ".join(sorted(known))}'
      raise UsageError(f'{flag}: no recipe has a macro {name}{hint}')
    with _one_line_errors(flag):
      try:
        gin.parse_config([*imports, f'{name} = {value}'])
      except (SyntaxError, tokenize.TokenError):
        raise UsageError(
          f'{flag}: the value is no Python literal; '
          + commandline.quoting(name, value)
        ) from None
  _check_macros()
  return _build(arguments), canonical_config()


def _build(arguments: Arguments) -> Any:
  """Constructs the object bound to `main.run.system`."""
  missing = UsageError(
    f'{", ".join(arguments.gin_files)}: nothing binds main.run.system; put a '
    'top recipe first, such as --gin_file=math.gin'
  )
  # Only the arguments are built under gin, and the mode is called by Python:
  # gin would wrap every exception that leaves a configurable.
  try:
    bindings = gin.get_bindings(run)
  except TypeError as e:
    # A required field of a configurable that no recipe binds.
    found = re.match(r'(\S+?)(\.__init__)?\(\) missing .*argument', str(e))
    if found is None:
      raise
    line = str(e).partition('\n')[0].replace('.__init__()', '')
    raise UsageError(f'{line}; bind it in the recipe') from None
  except ValueError as e:
    if 'in the Gin registry' in str(e):  # no recipe names main.run at all
      raise missing from None
    raise
  if 'system' not in bindings:
    raise missing
  return bindings['system']


def _macros() -> tuple[set[str], set[str]]:
  """Returns the names of macros that are (set, referred to)."""
  defined = {scope for scope, name in gin._CONFIG if name == 'gin.macro'}
  macro = gin.get_configurable(gin.macro)
  references = gin.iterate_references(gin._CONFIG, to=macro)
  return defined, {'/'.join(reference.scopes) for reference in references}


def _check_macros() -> None:
  """Refuses what is required and not set, and what is set in vain."""
  defined, used = _macros()
  unset = sorted(used - defined)
  for (scope, selector), parameters in gin._CONFIG.items():
    for parameter, value in parameters.items():
      if repr(value) == '%gin.REQUIRED':
        is_macro = selector == 'gin.macro'
        unset.append(scope if is_macro else _key(scope, selector, parameter))
  if unset:
    raise UsageError(
      f'{", ".join(unset)} {"is" if len(unset) == 1 else "are"} not set: write '
      + ' '.join(f'--gin.{name}=…' for name in unset)
      + ' (a string: --gin.NAME="\'…\'")'
    )
  for (scope, selector), parameters in gin._CONFIG.items():
    if selector == 'gin.macro' and scope in commandline.MACROS:
      commandline.check_macro(scope, parameters['value'])
  for name in sorted(defined - used - set(commandline.MACROS)):
    if hint := near(name, used):
      raise UsageError(f'the macro {name} is set and nothing uses it{hint}')


def _key(scope: str, selector: str, parameter: str) -> str:
  """A binding's key as a recipe with the same imports would write it."""
  manager = gin.ImportManager(gin._IMPORTS)
  configurable = gin._REGISTRY[selector]
  manager.require_configurable(configurable)
  name = f'{manager.minimal_selector(configurable)}.{parameter}'
  return f'{scope}/{name}' if scope else name


@contextlib.contextmanager
def _gin_search(search: Sequence[str]) -> Iterator[None]:
  """Has `include` statements searched where --gin_file is."""
  # gin's own call for it only adds, and only globally; and its second reader,
  # for package resources, logs an error for each place where nothing is.
  prefixes, readers = gin._LOCATION_PREFIXES[:], gin._FILE_READERS[:]
  gin._LOCATION_PREFIXES[:] = search
  gin._FILE_READERS[:] = [(open, os.path.isfile)]
  try:
    yield
  finally:
    gin._LOCATION_PREFIXES[:] = prefixes
    gin._FILE_READERS[:] = readers


@contextlib.contextmanager
def _one_line_errors(source: str) -> Iterator[None]:
  """Turns gin's complaints into one line that says where and what to write.

  Exceptions from elsewhere (a bug in a module that a recipe imports) pass.

  Args:
    source: the flag or the file that is being parsed; a file's included files
      name themselves.
  """
  try:
    yield
  except UsageError:
    raise
  except tokenize.TokenError as e:
    raise UsageError(f'{source}: {e.args[0]}') from None
  except SyntaxError as e:
    if str(e.filename).endswith('.py'):
      raise
    token = re.search(r'Failed to parse token (.*)', str(e.msg))
    what = f'{token[1]} is no Python literal (quotes?)' if token else e.msg
    raise UsageError(f'{e.filename}, line {e.lineno}: {what}') from None
  except ModuleNotFoundError as e:
    where, message = _place(e, source)
    raise UsageError(
      f'{where}: {message}; check its spelling, or install what brings it'
    ) from None
  except (ValueError, NameError, AttributeError, OSError) as e:
    if not _raised_under(e, _GIN):
      raise
    where, message = _place(e, source)
    raise UsageError(f'{where}: {_explained(message)}') from None


def _place(error: Exception, source: str) -> tuple[str, str]:
  """Splits gin's message into where (file and line, or flag) and what."""
  message, *trail = str(error).split('\n')
  found = re.search(r'In file "(.*)", line (\d+)', '\n'.join(trail))
  return f'{found[1]}, line {found[2]}' if found else source, message


def _explained(message: str) -> str:
  """gin's message with the nearest name that would have been right."""
  if found := re.match(
    r"Configurable '(.*)' doesn't have a parameter named '(.*)'", message
  ):
    owner, name = found.groups()
    configurable = gin._REGISTRY.get_match(owner)
    assert configurable is not None, owner  # gin has just named it
    known = list(inspect.signature(configurable.wrapped).parameters)
    hint = near(name, known) or f'; it has {", ".join(known)}'
    return f'{owner} has no parameter {name!r}{hint}'
  if found := re.match(r"'(.*)' was not provided by an import", message):
    names = {statement.bound_name() for statement in gin._IMPORTS}
    hint = near(found[1], names) or '; check its spelling or add the import'
    return f'no recipe imports a module {found[1]!r}{hint}'
  if found := re.match(
    r"Couldn't resolve selector .*; <module '([\w.]+)'.* has no attribute (\w+)",
    message,
  ):
    module, name = found.groups()
    public = [n for n in vars(sys.modules[module]) if not n.startswith('_')]
    return f'the module {module} has no {name!r}{near(name, public)}'
  return message


def _modes(system: Any) -> list[str]:
  """Public methods that need no argument, in the order of the class."""
  modes = {}
  for cls in reversed(type(system).__mro__):
    for name, method in vars(cls).items():
      if not name.startswith('_') and inspect.isfunction(method):
        _, *parameters = inspect.signature(method).parameters.values()
        if all(p.default is not p.empty for p in parameters):
          modes[name] = None
  return list(modes)


def _raised_under(
  error: BaseException, *folders: pathlib.Path, on_purpose: bool = False
) -> bool:
  """Whether the code that raised stands in one of the folders.

  With `on_purpose` it must be a raise statement: a built-in function that
  fails has no frame of its own and seems to raise where it is called.
  """
  trace = error.__traceback__
  while trace is not None and trace.tb_next is not None:
    trace = trace.tb_next
  if trace is None:
    return False
  name = trace.tb_frame.f_code.co_filename
  line = linecache.getline(name, trace.tb_lineno).strip()
  file = pathlib.Path(name).resolve()
  return any(file.is_relative_to(folder) for folder in folders) and (
    line.startswith('raise') or not on_purpose
  )


if __name__ == '__main__':
  # Recipes import restem_jax.main; run the functions of that module, not of a
  # second copy called __main__.
  from restem_jax import main as this_module

  sys.exit(this_module.main())
