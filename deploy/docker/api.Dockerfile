# An API node. Flower is run from the same image, as `aima flower`.
#
#   docker build --file deploy/docker/api.Dockerfile --tag aima/api:1 .
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ENV UV_PROJECT_ENVIRONMENT=/opt/aima UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1
COPY deploy/docker/uv.txt /build/
RUN python3 -m pip install --no-cache-dir --require-hashes --requirement /build/uv.txt
WORKDIR /build
# The dependencies, each by its hash in uv.lock, in a layer that lasts until that file changes.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project --extra api --extra flower
COPY . ./
RUN uv sync --frozen --no-dev --no-editable --extra api --extra flower \
    && install --directory --owner 10001 --group 10001 --mode 0700 /state

FROM ${BASE}
COPY --from=build /opt/aima /opt/aima
COPY --from=build --chown=10001:10001 /state /var/lib/aima
COPY deploy/docker/healthy /usr/local/bin/healthy
ENV PATH=/opt/aima/bin:$PATH HOME=/var/lib/aima AIMA_STATE_DIR=/var/lib/aima PYTHONUNBUFFERED=1
VOLUME /var/lib/aima
USER 10001:10001
CMD ["aima", "api"]
