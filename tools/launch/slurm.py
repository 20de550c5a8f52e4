#!/usr/bin/env python3
"""Runs a recipe under SLURM: a job script for sbatch, a process per node.

  tools/launch/slurm.py --nodes=4 --gpus_per_node=8 --time=12:00:00 -- \
      --gin_file=math.gin --gin_file=meshes/h100x8.gin

The processes find each other by SLURM's variables. Two minutes before the time
is over each gets SIGTERM: the run saves and ends, and the same command goes on
from there. With --requeue the job itself goes back into the queue.

A process has the whole node: without --cpus_per_task no other job gets onto it.
"""

import shlex

import shell

# Not `exec srun`, whose tasks SLURM would signal by itself: who waits for them
# is to know why they ended. And not a signal to srun, which kills them for it.
# `sbatch --requeue` alone is for nodes that fail and jobs that are displaced.
_AGAIN = """\
again=
trap 'again=1; scancel --signal=TERM $SLURM_JOB_ID' TERM
{task} &
pid=$!
wait $pid
code=$?
while kill -0 $pid 2>/dev/null; do wait $pid; code=$?; done
[ -z "$again" ] || exec scontrol requeue $SLURM_JOB_ID
exit $code
"""


def main() -> int:
  """Parses the flags, hands the script to sbatch."""
  parser = shell.parser(__doc__ or '')
  parser.add_argument('--nodes', type=int, default=1)
  parser.add_argument('--gpus_per_node', type=int, default=8)
  parser.add_argument('--cpus_per_task', type=int)
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
    'cpus-per-task': flags.cpus_per_task,
    'time': flags.time,
    'partition': flags.partition,
    'account': flags.account,
    'signal': 'B:TERM@120' if flags.requeue else 'TERM@120',
    'open-mode': 'append',  # a job that is started again goes on in its log
  }
  words = ['sbatch']
  words += [f'--{name}={value}' for name, value in options.items() if value]
  srun = ['srun', '--kill-on-bad-exit=1']
  if flags.cpus_per_task:
    srun.append(f'--cpus-per-task={flags.cpus_per_task}')  # not sbatch's
  else:  # or a task gets one CPU, and the memory that goes with it
    words += ['--exclusive', '--mem=0']
  if flags.requeue:
    words.append('--requeue')
  task = shlex.join([*srun, 'bash', '-c', shell.remote(flags, arguments)])
  rest = _AGAIN.format(task=task) if flags.requeue else f'exec {task}\n'
  return shell.run(words, flags.dry_run, stdin=f'#!/bin/bash\n{rest}')


if __name__ == '__main__':
  raise SystemExit(main())
