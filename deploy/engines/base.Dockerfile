# What the engines need beneath them, on a Python image that lacks it: the C++ and OpenMP runtimes.
ARG PYTHON
FROM ${PYTHON}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/*
