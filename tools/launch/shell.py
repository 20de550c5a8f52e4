"""What the launchers share: flags, quoting, running or printing.

In: a launcher's flags, then `--`, then the arguments of restem_jax.main. Out:
one command line that a shell can be given. Every argument is quoted once for
each shell it passes, so that `--gin.WEIGHTS="'hf://…'"` arrives as written.
"""

import argparse
from collections.abc import Sequence
import re
import shlex
import subprocess
import sys


def parser(doc: str) -> argparse.ArgumentParser:
  """A parser with the flags that all launchers have."""
  out = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  out.add_argument(
    '--dry_run', action='store_true', help='print the commands, run nothing'
  )
  out.add_argument(
    '--workdir', default='restem_jax', help='folder to run in, on each host'
  )
  out.add_argument('--python', default='python', help='on each host')
  out.add_argument(
    '--env',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help='environment variable of the run; repeat it',
  )
  return out


def parse(
  out: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, list[str]]:
  """(flags, arguments of restem_jax.main); they stand behind `--`."""
  argv = sys.argv[1:] if argv is None else list(argv)
  if '--' not in argv:
    out.parse_args(argv)  # --help and mistakes first
    out.error('write -- and then what restem_jax.main gets: -- --gin_file=…')
  at = argv.index('--')
  flags = out.parse_args(argv[:at])
  for pair in flags.env:
    if not re.fullmatch(r'[A-Za-z_]\w*=.*', pair, re.S):
      out.error(f'--env={pair}: write --env=NAME=VALUE')
  return flags, argv[at + 1 :]


def command(flags: argparse.Namespace, arguments: Sequence[str]) -> list[str]:
  """The words of one process of the run."""
  words = [flags.python, '-m', 'restem_jax.main', *arguments]
  return ['env', *flags.env, *words] if flags.env else words


def remote(
  flags: argparse.Namespace, arguments: Sequence[str], alone: bool = False
) -> str:
  """The same as text for a shell on a host.

  Args:
    flags: as `parse` gives them.
    arguments: of restem_jax.main.
    alone: the process asks for no others.
  """
  if not alone:
    arguments = ['--distributed', *arguments]
  words = shlex.join(command(flags, arguments))
  return f'cd {shlex.quote(flags.workdir)} && exec {words}'


def run(words: Sequence[str], dry_run: bool, stdin: str | None = None) -> int:
  """Runs a command, or prints it as one would type it; the exit code."""
  if dry_run:
    print(shlex.join(words))
    if stdin is not None:
      print(stdin, end='')
    return 0
  try:
    return subprocess.run(words, input=stdin, text=True, check=False).returncode
  except FileNotFoundError:
    print(f'error: {words[0]} is not installed here', file=sys.stderr)
    return 127
