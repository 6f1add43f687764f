#!/usr/bin/env bash
# Draw every secret of deploy/compose.yaml once, each into a file of mode 0400 owned by user 10001:
#
#   deploy/docker/secrets.sh [FOLDER]    default: deploy/secrets, which git ignores; run as root, or chown yourself
#
# Existing files stay. FOLDER/environment is for `docker compose --env-file`.
set -euo pipefail
umask 077
folder=${1:-$(dirname "$0")/../secrets}
mkdir -p "$folder"
chmod 0700 "$folder"
cd "$folder"
draw() { head -c "${1:-24}" /dev/urandom | od -An -tx1 | tr -d ' \n'; }
keep() { # NAME, text on stdin; an existing file stays
    if [ -e "$1" ]; then cat >/dev/null; else cat >"$1.new" && mv "$1.new" "$1"; fi
}
for name in postgres_password mlflow_password airflow_password redis_password metrics_key grafana_password ray_token \
    airflow_jwt_secret airflow_secret_key; do
    draw 32 | keep $name
done
head -c 32 /dev/urandom | base64 -w0 | tr '+/' '-_' | keep airflow_fernet_key
printf '{"admin": "%s"}\n' "$(draw)" | keep airflow_passwords
printf 'postgres:5432:mlflow:mlflow:%s\npostgres:5432:airflow:airflow:%s\n' \
    "$(cat mlflow_password)" "$(cat airflow_password)" | keep pgpass
printf 'bind 0.0.0.0\nrequirepass %s\n' "$(cat redis_password)" | keep redis_conf
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$(draw 10)" "$(draw)" | keep aws_credentials
printf '{"identities": [{"name": "fraud", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": %s}]}\n' \
    "$(sed -n 's/^aws_access_key_id = //p' aws_credentials)" "$(sed -n 's/^aws_secret_access_key = //p' aws_credentials)" \
    '["Admin", "Read", "Write", "List", "Tagging"]' | keep s3_config
# The hash of Prometheus's key; clients' own come after it (python -m serve_app.auth).
printf '%s prometheus\n' "$(tr -d '\n' <metrics_key | sha256sum | cut -d' ' -f1)" | keep api_keys
printf 'FRAUD_HISTORY_URL=redis://:%s@redis:6379/0\n' "$(cat redis_password)" | keep environment
chmod 0400 ./*
chmod 0600 api_keys
if [ "$(id -u)" -eq 0 ]; then
    chown -R 10001:10001 .
else
    echo "now: sudo chown -R 10001:10001 $folder" >&2
fi
