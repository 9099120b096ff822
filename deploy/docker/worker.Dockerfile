# A host's worker. It carries commands out through the socket of the host's Docker Engine, so that has to be mounted,
# and it looks at the ports that engines are published on, so it has to be on the host's network.
#
#   docker build --file deploy/docker/worker.Dockerfile --tag aima/worker:1 .
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ENV UV_PROJECT_ENVIRONMENT=/opt/aima UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1
COPY deploy/docker/uv.txt /build/
RUN python3 -m pip install --no-cache-dir --require-hashes --requirement /build/uv.txt
WORKDIR /build
# The dependencies, each by its hash in uv.lock, in a layer that lasts until that file changes.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project --extra worker
COPY . ./
RUN uv sync --frozen --no-dev --no-editable --extra worker

FROM ${BASE}
COPY --from=build /opt/aima /opt/aima
COPY deploy/docker/healthy /usr/local/bin/healthy
ENV PATH=/opt/aima/bin:$PATH AIMA_STATE_DIR=/var/lib/aima PYTHONUNBUFFERED=1
VOLUME /var/lib/aima
# Root, which whoever holds the Docker Engine's socket is on the host anyway.
CMD ["aima", "worker"]
