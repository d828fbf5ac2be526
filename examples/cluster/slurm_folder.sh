#!/bin/bash
# One run over all nodes of a Slurm job, on nothing but a shared folder. A node that dies loses nothing.
#SBATCH --job-name=osp-fetch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --time=48:00:00
set -euo pipefail

exec srun --kill-on-bad-exit=0 \
    osp-fetch get list.parquet -o "$SCRATCH/data" --engine folder --max-duration 47h
