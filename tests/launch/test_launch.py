"""Launchers, by dry runs, and by shells in which gcloud and others are fakes.

A fake does what the real program does with its text: it hands it to a shell.
What the run gets must be what was written, hostile or not.
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

TOOLS = pathlib.Path(__file__).parents[2] / 'tools' / 'launch'

HOSTILE = [
  '--gin_file=math.gin',
  "--gin.WEIGHTS='hf://a/b'",
  '--gin.NAME="two words"  ',
  '--gin.A=$(touch /tmp/owned) `id` $HOME',
  '--gin.B=; rm -rf / && echo | cat > x',
  "--gin.C='''\\''",
  '--gin.D=*?[a-z]{1,2}~!#%',
  '--gin.E=ä™',
  '',
]
WORKDIR = "it's here; $x"
LINES = '--gin.F=first\nsecond'

FAKES = {
  'gcloud': 'for a; do case $a in --command=*) bash -c "${a#--command=}";; esac; done',
  'xpk': 'for a; do case $a in --command=*) bash -c "${a#--command=}";; esac; done',
  'sbatch': 'bash',  # the script comes on stdin
  'srun': 'shift; exec "$@"',
}
PYTHON = f"""#!{sys.executable}
import json, os, sys
print(json.dumps([os.getcwd(), os.environ.get('NOTE'), sys.argv[1:]]))
"""

LAUNCHERS = {
  'tpu_pod': ['--name=t', '--zone=z'],
  'gke': [
    '--cluster=c',
    '--workload=w',
    '--tpu_type=v5litepod-16',
    '--image=i',
  ],
  'slurm': ['--nodes=2', '--partition=p'],
  'gpu_box': [],
}


@pytest.fixture
def place(tmp_path):
  """A folder of fakes, and one with a hard name to run in."""
  for name, text in FAKES.items():
    (tmp_path / name).write_text(f'#!/bin/bash\n{text}\n')
    (tmp_path / name).chmod(0o755)
  python = tmp_path / 'my python'
  python.write_text(PYTHON)
  python.chmod(0o755)
  (tmp_path / "it's here; $x").mkdir()
  return tmp_path


def launch(name, *flags, path=None, cwd=None, **env):
  env = os.environ | env
  if path is not None:
    env['PATH'] = f'{path}:{env["PATH"]}'
  return subprocess.run(
    [sys.executable, TOOLS / f'{name}.py', *flags],
    capture_output=True,
    text=True,
    env=env,
    cwd=cwd,
    timeout=100,
  )


def main(name):
  """What stands before the run's own arguments: on several hosts it asks."""
  hosts = [] if name == 'gpu_box' else ['--distributed']
  return ['-m', 'restem_jax.main', *hosts]


@pytest.mark.parametrize('name', LAUNCHERS)
def test_arguments_arrive_as_written(name, place):
  workdir = place / WORKDIR
  arguments = [*HOSTILE, *([] if name == 'gke' else [LINES])]
  note = 'NOTE=a "b" $c'
  done = launch(
    name,
    *LAUNCHERS[name],
    f'--workdir={workdir}',
    f'--python={place / "my python"}',
    f'--env={note}',
    '--',
    *arguments,
    path=place,
  )
  assert done.returncode == 0, done.stderr
  cwd, got_note, got = json.loads(done.stdout)
  assert got == [*main(name), *arguments]
  assert (cwd, got_note) == (str(workdir), 'a "b" $c')


@pytest.mark.parametrize('name', LAUNCHERS)
def test_a_dry_run_prints_what_a_shell_would_run(name, place):
  flags = [f'--workdir={place}', f'--python={place / "my python"}']
  done = launch(
    name, *LAUNCHERS[name], *flags, '--dry_run', '--', *HOSTILE, path=place
  )
  assert done.returncode == 0, done.stderr
  first, _, script = done.stdout.partition('\n')
  if name == 'gpu_box':
    first += ' wait'
  ran = subprocess.run(
    ['bash', '-c', first],
    input=script,
    capture_output=True,
    text=True,
    env=os.environ | {'PATH': f'{place}:{os.environ["PATH"]}'},
    timeout=60,
  )
  assert json.loads(ran.stdout)[2] == [*main(name), *HOSTILE]


def test_a_pod_slice_runs_it_on_all_workers():
  flags = ('--name=my-tpu', '--zone=us-west4-a', '--project=p', '--dry_run')
  done = launch('tpu_pod', *flags, '--', '--gin_file=math.gin')
  assert shlex.split(done.stdout) == [
    *('gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'my-tpu'),
    *('--zone=us-west4-a', '--worker=all', '--project=p'),
    '--command=cd restem_jax && exec python -m restem_jax.main '
    '--distributed --gin_file=math.gin',
  ]
  one = launch('tpu_pod', *flags, '--worker=1', '--', '--gin_file=math.gin')
  assert '--worker=1' in one.stdout and '--distributed' not in one.stdout


def test_slurm_starts_a_process_per_node():
  flags = ('--nodes=4', '--dry_run')
  done = launch('slurm', *flags, '--', '--gin_file=math.gin')
  head, shebang, task, rest = done.stdout.split('\n')
  words = shlex.split(head)
  assert {'sbatch', '--nodes=4', '--ntasks-per-node=1'} <= set(words)
  # The whole node: SLURM gives a task one CPU unless it is told otherwise.
  assert {'--exclusive', '--mem=0', '--signal=TERM@120'} <= set(words)
  assert shebang == '#!/bin/bash' and not rest
  assert shlex.split(task)[:4] == [
    'exec',
    'srun',
    '--kill-on-bad-exit=1',
    'bash',
  ]


def test_slurm_shares_a_node_if_told_how_many_cpus():
  flags = ('--cpus_per_task=12', '--dry_run')
  done = launch('slurm', *flags, '--', '--gin_file=math.gin')
  head, _, task, _ = done.stdout.split('\n')
  assert '--cpus-per-task=12' in head and '--exclusive' not in head
  assert 'srun --kill-on-bad-exit=1 --cpus-per-task=12 bash' in task


@pytest.mark.parametrize('told', [True, False])
def test_slurm_requeues_what_its_time_ended(place, told):
  """The script is run by a shell, as SLURM's own is; so is the signal."""
  (place / 'srun').write_text("""#!/bin/bash
trap 'echo saved; exit 0' TERM
echo $$ > pid
echo started
for i in $(seq 100); do sleep 0.1; [ -e done ] && exit 3; done
""")
  # A signal to srun itself would end it: SLURM 22.05 kills the tasks for it.
  scancel = '[ "$*" = "--signal=TERM 7" ] && kill -TERM $(cat pid)'
  for name, text in (('scontrol', 'echo scontrol "$@"'), ('scancel', scancel)):
    (place / name).write_text(f'#!/bin/bash\n{text}\n')
    (place / name).chmod(0o755)
  done = launch('slurm', '--requeue', '--dry_run', '--', '--gin_file=math.gin')
  head, _, script = done.stdout.partition('\n')
  assert {'--requeue', '--signal=B:TERM@120', '--open-mode=append'} <= set(
    shlex.split(head)
  )
  with subprocess.Popen(
    ['bash', '-c', script],
    stdout=subprocess.PIPE,
    text=True,
    cwd=place,
    env=os.environ
    | {'PATH': f'{place}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'},
  ) as job:
    assert job.stdout is not None and job.stdout.readline() == 'started\n'
    if told:
      job.terminate()
    else:
      (place / 'done').touch()
    rest, _ = job.communicate(timeout=30)
  if told:
    assert (job.returncode, rest) == (0, 'saved\nscontrol requeue 7\n')
  else:
    assert (job.returncode, rest) == (3, '')


def test_gke_is_one_workload():
  flags = [*LAUNCHERS['gke'], '--num_slices=2', '--zone=z', '--dry_run']
  words = shlex.split(launch('gke', *flags, '--', '--gin_file=a.gin').stdout)
  assert words[:3] == ['xpk', 'workload', 'create']
  assert {'--tpu-type=v5litepod-16', '--num-slices=2', '--zone=z'} <= set(words)
  assert {'--docker-image=i', '--cluster=c', '--workload=w'} <= set(words)
  assert '--termination-grace-period-seconds=300' in words
  assert '--max-restarts' not in ' '.join(words)
  assert '--preempted_exit_code' not in words[-1]
  again = launch('gke', *flags, '--max_restarts=3', '--', '--gin_file=a.gin')
  assert {'--max-restarts=3', '--restart-on-exit-codes=1'} <= set(
    shlex.split(again.stdout)
  )
  assert ' --preempted_exit_code=1 ' in again.stdout
  refused = launch('gke', *flags, '--', LINES)
  assert refused.returncode == 2 and 'a line break' in refused.stderr


def test_a_box_can_have_a_process_per_gpu():
  done = launch('gpu_box', '--processes=2', '--dry_run', '--', '--gin_file=a')
  lines = done.stdout.splitlines()
  assert len(lines) == 2
  for index, line in enumerate(lines):
    assert f'CUDA_VISIBLE_DEVICES={index} ' in line
    assert '--coordinator_address=localhost:8476 --process_count=2' in line
    assert f'--process_index={index}' in line


def test_a_box_ends_the_others_if_one_fails(place):
  python = place / 'my python'
  python.write_text(
    '#!/bin/bash\n'
    'case "$*" in *--process_index=1*) exit 3;; esac\nexec sleep 50\n'
  )
  done = launch('gpu_box', '--processes=2', f'--python={python}', '--', 'x')
  assert done.returncode == 3


@pytest.mark.parametrize('name', LAUNCHERS)
def test_mistakes(name):
  flags = LAUNCHERS[name]
  done = launch(name, *flags, '--gin_file=math.gin')
  assert done.returncode == 2
  done = launch(name, *flags)
  assert done.returncode == 2 and 'write -- and then' in done.stderr
  done = launch(name, *flags, '--env=a b', '--', 'x')
  assert done.returncode == 2 and 'write --env=NAME=VALUE' in done.stderr


def test_what_is_not_installed(place):
  for name in FAKES:
    (place / name).unlink()
  done = subprocess.run(
    [sys.executable, TOOLS / 'tpu_pod.py', *LAUNCHERS['tpu_pod'], '--', 'x'],
    capture_output=True,
    text=True,
    env=os.environ | {'PATH': str(place)},
  )
  assert done.returncode == 127 and 'gcloud is not installed' in done.stderr


@pytest.mark.skipif(not shutil.which('xpk'), reason='xpk is missing')
def test_the_real_xpk_writes_what_a_pod_runs(place):
  """Its manifest, whose script is run as the pod would run it."""
  yaml = pytest.importorskip('yaml')
  manifest = place / 'manifest.yaml'
  real = shlex.quote(str(shutil.which('xpk')))
  (place / 'xpk').write_text(
    f'#!/bin/bash\nexec {real} "$@" --dry-run --skip-validation '
    f'--output-manifest-file={shlex.quote(str(manifest))}\n'
  )
  flags = [*LAUNCHERS['gke'], '--zone=us-west4-a', '--project=p']
  done = launch(
    'gke',
    *flags,
    '--max_restarts=2',
    f'--workdir={place / WORKDIR}',
    f'--python={place / "my python"}',
    '--',
    *HOSTILE,
    path=place,
    HOME=str(place),
  )
  assert done.returncode == 0, done.stdout + done.stderr
  spec = yaml.safe_load(manifest.read_text())['spec']
  job = spec['replicatedJobs'][0]['template']['spec']
  pod = job['template']['spec']
  assert spec['failurePolicy']['maxRestarts'] == 2
  (rule,) = job['podFailurePolicy']['rules']
  codes = rule['onExitCodes']
  assert codes['operator'] == 'NotIn' and 1 in codes['values']
  assert job['parallelism'] == 4 and pod['terminationGracePeriodSeconds'] == 300
  ran = subprocess.run(
    pod['containers'][0]['command'], capture_output=True, text=True, timeout=60
  )
  (line,) = [x for x in ran.stdout.splitlines() if x.startswith('[')]
  assert json.loads(line)[2] == [*main('gke'), *HOSTILE], ran.stdout


def has_slurm():
  """Whether there is a cluster to which jobs can be given."""
  if not shutil.which('sbatch'):
    return False
  return bool(subprocess.run(['sinfo', '-h'], capture_output=True).stdout)


@pytest.mark.skipif(not has_slurm(), reason='no SLURM cluster here')
@pytest.mark.parametrize('flags', [[], ['--requeue'], ['--cpus_per_task=2']])
def test_the_real_slurm_runs_it(place, flags):
  for name in ('sbatch', 'srun'):
    (place / name).unlink()
  done = launch(
    'slurm',
    '--gpus_per_node=0',
    '--time=00:05:00',
    *flags,
    f'--workdir={place / WORKDIR}',
    f'--python={place / "my python"}',
    '--',
    *HOSTILE,
    LINES,
    cwd=place,
    SBATCH_WAIT='1',
  )
  assert done.returncode == 0, done.stderr
  (log,) = place.glob('slurm-*.out')
  got = json.loads(log.read_text())
  assert got[2] == [*main('slurm'), *HOSTILE, LINES]
