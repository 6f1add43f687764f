#!/usr/bin/env bash
# Airflow's four components in one container. If one ends, all end, and the engine restarts the container.
set -euo pipefail
# Airflow opens its file of passwords for writing; the secret is read-only.
(umask 077 && cp "$AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE" "$AIRFLOW_HOME/passwords.json")
export AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE="$AIRFLOW_HOME/passwords.json"
airflow db migrate
# Import once, so that later changes in Airflow stay.
if [ ! -e "$AIRFLOW_HOME/pools.made" ]; then
    airflow pools import /app/airflow-pools.json && touch "$AIRFLOW_HOME/pools.made"
fi
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
trap 'exit 143' TERM INT
airflow api-server --workers 1 --host 0.0.0.0 --port 8080 &
until python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/api/v2/monitor/health', timeout=2)" \
    2>/dev/null; do
    kill -0 $! # exit if the api-server ended
    sleep 1
done
airflow dag-processor &
airflow triggerer --skip-serve-logs &
airflow scheduler --skip-serve-logs &
wait -n
exit 1
