#!/bin/bash
# One run over all nodes of a Slurm job, on Ray. The output folder is on a shared file system.
#SBATCH --job-name=osp-fetch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=48:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_USAGE_STATS_ENABLED=0
# every task starts the Ray of its node; the command runs on the first one, as soon as all have come
exec srun --kill-on-bad-exit=0 ray symmetric-run \
    --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    osp-fetch get sam-11m --links sa1b_links.tsv -o "$SCRATCH/sam" --engine ray --address auto
