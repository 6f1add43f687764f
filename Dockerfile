# syntax=docker/dockerfile:1
# One image for everything that runs our code: Ray's nodes, jobs, and /score by itself (the default command).
#
#   docker build -t fraud .                                CPU: pip must find the CPU build of torch first
#   docker build -t fraud:gpu --build-arg VARIANT=gpu .    torch with CUDA; the host brings the driver
#   docker run -p 8000:8000 fraud                          a first try: draws a key, answers with a small model
#   docker run --read-only --tmpfs /tmp --shm-size 2g -v state:/var/lib/fraud -e FRAUD_MODE=production \
#     -v ./bundle:/model:ro -v ./api_keys:/run/secrets/api_keys:ro -p 127.0.0.1:8000:8000 fraud
#
# Where packages come from is the builder's affair: pip reads PIP_INDEX_URL, PIP_FIND_LINKS, ... as build arguments.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG VARIANT=cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY pyproject.toml requirements.lock ./
# The versions of the lock, without what only tests and linters need: its lines constrain pyproject's own.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN python3 -m venv /venv && \
    sed -E 's/\[[^]]*\]//' requirements.lock > constraints.txt && \
    /venv/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > wanted.txt && \
    /venv/bin/pip install --quiet --constraint constraints.txt --requirement wanted.txt && \
    /venv/bin/python -c "import sys, torch; has = torch.version.cuda is not None; sys.exit(None if has == (sys.argv[1] == 'gpu') else f'VARIANT={sys.argv[1]}, but pip found torch {torch.__version__}: give it another index')" "$VARIANT"

FROM ${BASE_IMAGE}
ARG VARIANT=cpu
ARG VERSION=0.3.0
ARG GIT_COMMIT=unknown
LABEL org.opencontainers.image.title="ray-fraud" \
      org.opencontainers.image.description="Fraud detection on Ray: train, score, serve and watch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${GIT_COMMIT}" \
      ray-fraud.variant="${VARIANT}"
RUN groupadd --gid 10001 fraud && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/fraud --shell /usr/sbin/nologin fraud && \
    install -d -o 10001 -g 10001 -m 0700 /var/lib/fraud
COPY --from=build /venv /venv
WORKDIR /app
COPY fraud fraud
COPY cluster cluster
COPY ray_jobs ray_jobs
COPY tuning tuning
COPY serve_app serve_app
COPY monitoring monitoring
COPY deploy deploy
# As pip did for the packages: nothing can be written beside the code later. KubeRay starts Ray in a login shell, which
# begins with a PATH of its own.
RUN /venv/bin/python -m compileall -q /app && \
    echo "export PATH=/venv/bin:\$PATH" > /etc/profile.d/fraud.sh
# Closed by default: it listens for others, so it starts only with API keys, and Ray asks for a token that is drawn at
# the first start. All that is written goes to /var/lib/fraud and /tmp. The key below is a file's name, no secret.
# FRAUD_MODE=trial: where neither model, registry nor key is configured, it makes a key and a small model for a first
# try (deploy.trial). FRAUD_MODE=production, or any of the three, refuses instead.
# hadolint ignore=DL3064
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 \
    RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1 RAY_AUTH_MODE=token \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HOME=/var/lib/fraud FRAUD_ROOT=/var/lib/fraud FRAUD_STATE=/var/lib/fraud/state FRAUD_BUNDLE=/model \
    FRAUD_MODE=trial FRAUD_HOST=0.0.0.0 FRAUD_API_KEY_FILE=/run/secrets/api_keys GIT_COMMIT=${GIT_COMMIT}
USER 10001:10001
VOLUME /var/lib/fraud
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-m", "deploy.serving", "--check"]
CMD ["python", "-m", "deploy.serving"]
