#!/usr/bin/env python3
"""Runs a recipe under SLURM: a job script for sbatch, a process per node.

  tools/launch/slurm.py --nodes=4 --gpus_per_node=8 --time=12:00:00 -- \
      --gin_file=math.gin --gin_file=meshes/h100x8.gin

The processes find each other by SLURM's variables. SLURM sends SIGTERM two
minutes before the time is over: the run saves and ends, and the same command
goes on from there (--requeue puts it back into the queue).
"""

import shlex

import shell


def main() -> int:
  """Parses the flags, hands the script to sbatch."""
  parser = shell.parser(__doc__ or '')
  parser.add_argument('--nodes', type=int, default=1)
  parser.add_argument('--gpus_per_node', type=int, default=8)
  parser.add_argument('--time', default='24:00:00', help='hh:mm:ss')
  parser.add_argument('--job_name', default='restem')
  parser.add_argument('--partition')
  parser.add_argument('--account')
  parser.add_argument('--requeue', action='store_true')
  flags, arguments = shell.parse(parser)
  options = {
    'job-name': flags.job_name,
    'nodes': flags.nodes,
    'ntasks-per-node': 1,
    'gpus-per-node': flags.gpus_per_node,
    'time': flags.time,
    'partition': flags.partition,
    'account': flags.account,
    'signal': 'TERM@120',
  }
  words = ['sbatch']
  words += [f'--{name}={value}' for name, value in options.items() if value]
  if flags.requeue:
    words.append('--requeue')
  task = shlex.join(['bash', '-c', shell.remote(flags, arguments)])
  script = f'#!/bin/bash\nexec srun --kill-on-bad-exit=1 {task}\n'
  return shell.run(words, flags.dry_run, stdin=script)


if __name__ == '__main__':
  raise SystemExit(main())
