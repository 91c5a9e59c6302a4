#!/bin/bash
# One torchrun per machine under Slurm, split by FSDP2. RECIPE and OUTPUT are given, and what follows is passed on:
#   RECIPE=qwen3-4b-paper OUTPUT=/shared/runs/q sbatch training/clusters/slurm.sh --data /shared/data.parquet
# Slurm sends SIGTERM two minutes before the time limit; the run then saves a checkpoint. Submit again with --resume.
#SBATCH --job-name=nbdiff
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120

set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
  -m training adapt --recipe "$RECIPE" --output "$OUTPUT" --set shard=true "$@"
