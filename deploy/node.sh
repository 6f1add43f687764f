# What every shell of a node of `ray up` begins with; sourced by ~/.bashrc and by the start commands of cluster.yaml.
# ~/ray-fraud/site.sh, which the setup commands write, says where this cluster's folder and servers are.
# shellcheck shell=bash

# shellcheck source=/dev/null
[ ! -r ~/ray-fraud/site.sh ] || . ~/ray-fraud/site.sh
# More than once a session: between two shells /etc/profile may have set PATH anew.
case ":$PATH:" in *":$HOME/fraud-venv/bin:"*) ;; *) export PATH="$HOME/fraud-venv/bin:$PATH" ;; esac
export PYTHONPATH="$HOME/ray-fraud"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token"
export RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1
export NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-$HOME/.cache/fraud-numba}"
# A node gives memory back by ending tasks before the kernel ends whatever it likes.
export RAY_memory_usage_threshold="${RAY_memory_usage_threshold:-0.9}"
# With Redis a head comes back with what it knew: workers wait for it 10 min instead of one.
[ -z "${RAY_REDIS_ADDRESS:-}" ] ||
    export RAY_gcs_rpc_server_reconnect_timeout_s="${RAY_gcs_rpc_server_reconnect_timeout_s:-600}"
# torch asks the host's name for the address at which other workers reach it, and many hosts answer 127.0.1.1.
if [ -z "${GLOO_SOCKET_IFNAME:-}" ]; then
    GLOO_SOCKET_IFNAME=$(ip -o route get 192.0.2.1 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p')
    [ -z "$GLOO_SOCKET_IFNAME" ] || export GLOO_SOCKET_IFNAME
fi

# HAProxy before Serve's replicas, whose settings must be there where `ray start` runs.
fraud_ingress() {
    local settings
    settings=$(cd ~ && python -m cluster.ingress --folder "$HOME/.fraud-ha") && eval "$settings"
}
