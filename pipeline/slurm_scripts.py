"""The shell that Slurm runs: a batch script for the job, one for each node, a check of folders.

Each is a template of `str.format`; tests hold what it becomes against shellcheck.
"""

NODE = """\
#!/bin/bash
# One node of the job's Ray cluster: `node.sh head|worker ADDRESS`.
set -euo pipefail
{setup}
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={folder}/token RAY_USAGE_STATS_ENABLED=0
export RAY_raylet_start_wait_time_s=300
scratch=
trap 'rm -rf "$scratch"' EXIT
trap 'exit 143' TERM
scratch=$(mktemp --directory {scratch}/isoflop-XXXXXX)
export TMPDIR="$scratch/tmp"
mkdir "$TMPDIR"
options=(--block --disable-usage-stats --num-cpus={cpus} --num-gpus={gpus})
options+=(--dashboard-agent-listen-port=0 "--temp-dir=$scratch")
if [ "$1" = head ]; then
  options+=(--head "--port=${{2##*:}}" --include-dashboard=false)
else
  options+=("--address=$2")
fi
{python} -m ray.scripts.scripts start "${{options[@]}}" &
trap 'kill -TERM "$!" 2>/dev/null || true' TERM
wait "$!" || true
wait "$!" || true
"""

BATCH = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={cpus}
{directives}#SBATCH --time={time}
#SBATCH --output={folder}/log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@{signal_seconds}
# {study} as {id}, written by isoflop {version}. Slurm may start it again: it goes on where it was.
set -euo pipefail
cd {folder}/code
{setup}
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={folder}/token TMPDIR={scratch}
rm -f {folder}/exit {folder}/token
finish() {{
  status=$?
  rm -f {folder}/token
  mapfile -t steps < <(jobs -p)
  kill "${{steps[@]}}" 2>/dev/null || true
  wait
  if [ "$status" = {saved} ] && [ ! -e {folder}/cancelled ]; then
    echo "the time is over: queueing this job again, which goes on where it was"
    scontrol requeue "$SLURM_JOB_ID" && exit "$status"
  fi
  echo "$status" >{folder}/exit
  exit "$status"
}}
trap finish EXIT
trap 'exit {saved}' TERM  # until the driver can be told, there is nothing to save
(umask 077 && {python} -c 'import secrets; print(secrets.token_hex(32))' >{folder}/token)

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
each=(srun --overlap --cpus-per-task={cpus}{gpus})  # which srun takes from no directive
# shellcheck disable=SC2016  # every node puts in its own
"${{each[@]}}" "--nodes=${{#nodes[@]}}" "--ntasks=${{#nodes[@]}}" \\
  bash -c '{check}' check {folder} {scratch}
on_head=("${{each[@]}}" --nodes=1 --ntasks=1 "--nodelist=${{nodes[0]}}")
host=$("${{on_head[@]}}" {python} -c 'import ray.util; print(ray.util.get_node_ip_address())')
address="$host:$((20000 + SLURM_JOB_ID % 10000))"
"${{on_head[@]}}" bash {folder}/node.sh head "$address" &
until {python} -m ray.scripts.scripts health-check --address "$address" >/dev/null 2>&1; do
  if ! kill -0 "$!" 2>/dev/null; then echo "the head of Ray did not start" >&2; exit 1; fi
  sleep 1
done
if [ "${{#nodes[@]}}" -gt 1 ]; then
  others=$((${{#nodes[@]}} - 1))
  "${{each[@]}}" "--nodes=$others" "--ntasks=$others" "--exclude=${{nodes[0]}}" \\
    bash {folder}/node.sh worker "$address" &
fi

# Slurm tells this script of the time limit, of preemption and of `scancel`: it tells the driver,
# which lets every run save its state.
RAY_ADDRESS="$address" {command} &
driver=$!
trap 'kill -TERM "$driver" 2>/dev/null || true' TERM
while kill -0 "$driver" 2>/dev/null; do wait "$driver" || true; done
status=0
wait "$driver" || status=$?  # of its end, which a wait that a signal ended does not tell
exit "$status"
"""

CHECK = """\
for each; do
  if [ -d "$each" ] && [ -w "$each" ]; then continue; fi
  echo "$(hostname): $each is not there or cannot be written; see shared and scratch in \
the file of the cluster" >&2
  exit 2
done"""
