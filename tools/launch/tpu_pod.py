#!/usr/bin/env python3
"""Runs a recipe on a TPU pod slice: the same command on all its hosts.

  tools/launch/tpu_pod.py --name=my-v5e-16 --zone=us-west4-a -- \
      --gin_file=math.gin --gin_file=meshes/v5e_16.gin \
      --gin.MODEL_DIR="'gs://bucket/runs/math'"

Wants gcloud, its key in an ssh-agent (ssh-add ~/.ssh/google_compute_engine), and
restem_jax installed in --workdir on each host; the hosts find each other by the
slice's metadata. Ends with gcloud's exit code: that of a host that failed.
"""

import shell


def main() -> int:
  """Parses the flags and runs gcloud."""
  parser = shell.parser(__doc__ or '')
  parser.add_argument('--name', required=True, help='of the TPU VM')
  parser.add_argument('--zone', required=True)
  parser.add_argument('--project')
  parser.add_argument('--worker', default='all', help="a host's number, or all")
  flags, arguments = shell.parse(parser)
  words = [*('gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', flags.name)]
  words += [f'--zone={flags.zone}', f'--worker={flags.worker}']
  if flags.project:
    words.append(f'--project={flags.project}')
  text = shell.remote(flags, arguments, alone=flags.worker != 'all')
  words.append(f'--command={text}')
  return shell.run(words, flags.dry_run)


if __name__ == '__main__':
  raise SystemExit(main())
