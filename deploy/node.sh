# Environment of every shell on a node of `ray up`. ~/.bashrc and the start commands of cluster.yaml source it.
# ~/ray-fraud/site.sh, written by the setup commands, names this cluster's folder and servers.
# shellcheck shell=bash

# shellcheck source=/dev/null
[ ! -r ~/ray-fraud/site.sh ] || . ~/ray-fraud/site.sh
# This may run several times per session: /etc/profile may reset PATH between two shells.
case ":$PATH:" in *":$HOME/fraud-venv/bin:"*) ;; *) export PATH="$HOME/fraud-venv/bin:$PATH" ;; esac
export PYTHONPATH="$HOME/ray-fraud"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token"
export RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1
export NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-$HOME/.cache/fraud-numba}"
# Ray keeps 512 MiB and five old files of each of its logs otherwise.
export RAY_ROTATION_MAX_BYTES="${RAY_ROTATION_MAX_BYTES:-8388608}"
export RAY_ROTATION_BACKUP_COUNT="${RAY_ROTATION_BACKUP_COUNT:-3}"
# Let Ray end tasks when memory runs short, before the kernel kills an arbitrary process.
export RAY_memory_usage_threshold="${RAY_memory_usage_threshold:-0.9}"
# With Redis a restarted head keeps its state, so workers wait for it for 10 min instead of one.
[ -z "${RAY_REDIS_ADDRESS:-}" ] ||
    export RAY_gcs_rpc_server_reconnect_timeout_s="${RAY_gcs_rpc_server_reconnect_timeout_s:-600}"
# torch resolves the host's name to announce itself to other workers; on many hosts that gives 127.0.1.1.
if [ -z "${GLOO_SOCKET_IFNAME:-}" ]; then
    GLOO_SOCKET_IFNAME=$(ip -o route get 192.0.2.1 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p')
    [ -z "$GLOO_SOCKET_IFNAME" ] || export GLOO_SOCKET_IFNAME
fi

# HAProxy in front of Serve's replicas. Call it before `ray start`, which needs its settings.
fraud_ingress() {
    local settings
    settings=$(cd ~ && python -m cluster.ingress --folder "$HOME/.fraud-ha") && eval "$settings"
}
