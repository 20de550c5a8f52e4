#!/usr/bin/env python3
"""Runs a recipe on GKE through xpk: one workload, a process per host.

  tools/launch/gke.py --cluster=c --workload=math-1 --tpu_type=v5litepod-16 \
      --zone=us-west4-a --image=gcr.io/project/restem_jax -- \
      --gin_file=math.gin --gin_file=meshes/v5e_16.gin

Wants xpk, and an image in which --workdir has restem_jax installed. A host that
is taken away ends the processes on all; with --max_restarts they are started
again and go on, otherwise the same command under another --workload does it.
"""

import shell


def main() -> int:
  """Parses the flags and runs xpk."""
  parser = shell.parser(__doc__ or '')
  for name in ('cluster', 'workload', 'image'):
    parser.add_argument(f'--{name}', required=True)
  parser.add_argument('--tpu_type', required=True, help='such as v5litepod-16')
  parser.add_argument('--zone')
  parser.add_argument('--project')
  parser.add_argument('--num_slices', type=int, default=1)
  parser.add_argument('--max_restarts', type=int, default=0)
  parser.add_argument(
    '--grace', type=int, default=300, help='seconds between SIGTERM and SIGKILL'
  )
  flags, arguments = shell.parse(parser)
  words = ['xpk', 'workload', 'create']
  words += [f'--cluster={flags.cluster}', f'--workload={flags.workload}']
  words += [f'--tpu-type={flags.tpu_type}', f'--docker-image={flags.image}']
  words += [f'--num-slices={flags.num_slices}']
  words += [f'--termination-grace-period-seconds={flags.grace}']
  if flags.max_restarts:
    # Those that miss another process end with 1, which xpk takes for final.
    words += [f'--max-restarts={flags.max_restarts}']
    words += ['--restart-on-exit-codes=1']
    # A host that was told to end, and saved: 0 would be the end of the work.
    arguments = ['--preempted_exit_code=1', *arguments]
  words += [
    f'--{name}={value}'
    for name in ('zone', 'project')
    if (value := getattr(flags, name))
  ]
  text = shell.remote(flags, arguments)
  if '\n' in text:  # xpk writes it into a line of YAML
    parser.error('an argument has a line break, which xpk does not carry')
  words.append(f'--command={text}')
  return shell.run(words, flags.dry_run)


if __name__ == '__main__':
  raise SystemExit(main())
