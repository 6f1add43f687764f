#!/usr/bin/env bash
# PostgreSQL's image runs this once, on an empty volume. Creates a database and a user each for MLflow and Airflow.
set -euo pipefail
for name in mlflow airflow; do
    PASSWORD=$(cat "/run/secrets/${name}_password") NAME=$name psql -v ON_ERROR_STOP=1 -U postgres <<'SQL'
\getenv name NAME
\getenv password PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
SQL
done
