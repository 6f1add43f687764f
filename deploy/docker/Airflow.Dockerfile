# syntax=docker/dockerfile:1
# Airflow with our DAGs, from its own lock. Jobs run on Ray, so the image contains only dags/ of our code.
#
#   docker build -t fraud-airflow:0.3.0 -f deploy/docker/Airflow.Dockerfile .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements-airflow.lock /build/
RUN python3 -m venv /venv && /venv/bin/pip install --quiet --requirement /build/requirements-airflow.lock

FROM ${BASE_IMAGE}
ARG VERSION=0.3.0
LABEL org.opencontainers.image.title="ray-fraud-airflow" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN groupadd --gid 10001 fraud && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/airflow --shell /usr/sbin/nologin fraud && \
    install -d -o 10001 -g 10001 -m 0700 /var/lib/airflow
COPY --from=build /venv /venv
COPY dags /app/dags
COPY deploy/docker/airflow.sh deploy/docker/airflow-pools.json /app/
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DO_NOT_TRACK=1 \
    HOME=/var/lib/airflow AIRFLOW_HOME=/var/lib/airflow AIRFLOW__CORE__DAGS_FOLDER=/app/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/app/dags/plugins AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__CORE__EXECUTOR=LocalExecutor AIRFLOW__CORE__PARALLELISM=4 \
    AIRFLOW__CORE__EXECUTION_API_SERVER_URL=http://127.0.0.1:8080/execution/ \
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False
USER 10001:10001
VOLUME /var/lib/airflow
EXPOSE 8080
CMD ["bash", "/app/airflow.sh"]
