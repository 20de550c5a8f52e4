#!/usr/bin/env python3
"""Runs a recipe on one box with several GPUs.

  tools/launch/gpu_box.py -- --gin_file=math.gin --gin_file=meshes/h100x8.gin
  tools/launch/gpu_box.py --processes=8 -- --gin_file=math.gin

One process uses all GPUs of a box, which is what one wants; --processes starts
one for each GPU instead, as on several boxes. If one of them fails, the others
are ended, and the exit code is that of the first to fail.
"""

import shlex
import subprocess
import time

import shell

_GRACE = 60  # seconds for saving, once told to end


def main() -> int:
  """Parses the flags, starts the processes and waits for them."""
  parser = shell.parser(__doc__ or '')
  parser.set_defaults(workdir='.')
  parser.add_argument('--processes', type=int, default=1)
  parser.add_argument('--port', type=int, default=8476)
  flags, arguments = shell.parse(parser)
  if flags.processes < 1:
    parser.error(f'--processes={flags.processes}: write 1 or more')
  commands = []
  for index in range(flags.processes):
    words, env = list(arguments), []
    if flags.processes > 1:
      env = [f'CUDA_VISIBLE_DEVICES={index}']
      words += [
        f'--coordinator_address=localhost:{flags.port}',
        f'--process_count={flags.processes}',
        f'--process_index={index}',
      ]
    commands.append(shell.command(flags, words))
    if env:
      commands[-1] = ['env', *env, *commands[-1]]
  if flags.dry_run:
    folder = shlex.quote(flags.workdir)
    for words in commands:
      print(f'(cd {folder} && exec {shlex.join(words)}) &')
    return 0
  return _wait([subprocess.Popen(c, cwd=flags.workdir) for c in commands])


def _wait(processes: list[subprocess.Popen]) -> int:
  """Waits for all, or for the first that fails; the exit code."""
  try:
    while True:
      codes = [process.poll() for process in processes]
      failed = [code for code in codes if code]
      if failed or None not in codes:
        return failed[0] if failed else 0
      time.sleep(0.2)
  finally:  # also on Ctrl-C
    for process in processes:
      if process.poll() is None:
        process.terminate()
    for process in processes:
      try:
        process.wait(timeout=_GRACE)
      except subprocess.TimeoutExpired:
        process.kill()


if __name__ == '__main__':
  raise SystemExit(main())
