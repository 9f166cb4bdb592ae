#!/bin/bash
# A search on the nodes of a SLURM job. Options of sbatch stand before this file's name, those of cmh.tune behind it:
#     sbatch --nodes=2 --gpus-per-node=1 docs/slurm.sh --method dcmh --gpus-per-trial 0.25
# When the time is over it saves; the same command goes on. docs/cluster.md says why each line is as it is.
#SBATCH --nodes=1 --ntasks-per-node=1 --cpus-per-task=16 --time=08:00:00
#SBATCH --signal=B:USR1@120 --open-mode=append
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex())")
port=$((20000 + SLURM_JOB_ID % 10000))
export HEAD=$SLURMD_NODENAME:$port RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_TMPDIR=/tmp RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
srun --overlap --export=ALL --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
    port=${HEAD#*:} join="--address=$HEAD"
    [ "$SLURM_PROCID" = 0 ] && join="--head --port=$port --ray-client-server-port=$((port + 10000)) --include-dashboard=false"
    exec ray start $join --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block' &
until (: <"/dev/tcp/${HEAD%:*}/$port") 2>/dev/null; do
    kill -0 $! || exit 1
    sleep 1
done
exec python -m cmh.tune --address "$HEAD" "$@"
