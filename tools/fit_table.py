#!/usr/bin/env python3
"""What fits where: compiles recipes for meshes that are not here.

  JAX_PLATFORMS=cpu python tools/fit_table.py llama3_8b:v5e_16 [MODEL:MESH ...]
    [--gin.NAME=VALUE ...] [--json=FILE] [--sampling_only | --train_only]

Each argument is MODEL:MESH, names of files in gin/models and gin/meshes. The
programs are those of --run_mode=precompile, for jsonl.gin's task; rows of
2048 tokens, prompts of 1024 and rollouts of 512. Prints rows of the table of
docs/scale.md; --json appends a line per program to a file. A combination takes
minutes and up to some GB of memory.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from restem_jax import commandline, main as main_lib
from restem_jax.em import hardware, precompile

_FIXED = (
  '--gin_file=jsonl.gin',
  '--gin.DATA_PATH="none.jsonl"',
  '--gin.trainer.Trainer.row_len=2048',
)
_TOKENS = {'max_prompt_len': 1024, 'max_new_tokens': 512}
HEADER = (
  '| model | mesh | program | split | used / has [GiB] | fits | arguments '
  '[GiB] | estimate | MFU |\n|---|---|---|---|---|---|---|---|---|'
)


def row(model: str, mesh: str, report: precompile.Report) -> str:
  """A line of the table."""
  gib = lambda x: f'{x / 2**30:.2f}'
  split = ' '.join(
    part.strip() for part in report.mesh.split(',') if not part.endswith('=1')
  )
  room = gib(report.available) if report.available else '?'
  held = ', '.join(f'{k} {gib(v)}' for k, v in report.held.items())
  estimate = mfu = ''
  if report.seconds and report.mfu is not None:
    rate = report.tokens / report.seconds
    estimate = f'{report.seconds * 1e3:,.0f} ms, {rate:,.0f} tokens/s'
    mfu = f'{report.mfu:.1%}'
  fits = 'yes' if report.fits else f'no: {report.advice}'
  cells = (model, mesh, report.program, split, f'{gib(report.used)} / {room}')
  return '| ' + ' | '.join([*cells, fits, held, estimate, mfu]) + ' |'


def main() -> None:
  """Parses the flags, compiles, prints."""
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('pairs', nargs='+', metavar='MODEL:MESH')
  parser.add_argument('--json', type=pathlib.Path)
  only = parser.add_mutually_exclusive_group()
  only.add_argument('--sampling_only', action='store_true')
  only.add_argument('--train_only', action='store_true')
  flags, rest = parser.parse_known_args()
  print(HEADER, flush=True)
  for pair in flags.pairs:
    model, _, mesh = pair.partition(':')
    files = (
      f'--gin_file=models/{model}.gin',
      f'--gin_file=meshes/{mesh}.gin',
    )
    arguments = commandline.parse([*_FIXED[:1], *files, *_FIXED[1:], *rest])
    system, _ = main_lib._configure(arguments)
    setup = dataclasses.replace(precompile.setup_of(system), **_TOKENS)
    target = hardware.target(system.topology)
    train = not flags.sampling_only
    reports = precompile.check(setup, target, train=train)
    if flags.train_only:  # compiled as they are asked for: it is the first
      reports = itertools.islice(reports, 1)
    for report in reports:
      print(row(model, mesh, report), flush=True)
      if flags.json:
        line = {'model': model, 'mesh_file': mesh, 'flags': rest}
        line |= dataclasses.asdict(report)
        with flags.json.open('a', encoding='utf-8') as f:
          f.write(json.dumps(line) + '\n')


if __name__ == '__main__':
  try:
    main()
  except ValueError as e:
    sys.exit(f'error: {e}')
