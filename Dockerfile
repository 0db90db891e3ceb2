# The server with everything it needs to run alone: the bundled Valkey and the embedding model; and
# every extra: charts, Parquet files, the demo.
#
#   docker build -t contex .
#   docker run --rm --read-only --tmpfs /tmp -v contex-data:/data -p 127.0.0.1:50051:50051 contex
#
# Needs Linux on x86_64 or aarch64. See docs/operations/running.md, and compose.yaml for Valkey in
# a container of its own.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
RUN pip install --no-cache-dir --disable-pip-version-check 'uv>=0.9,<1'
ENV UV_PYTHON=/usr/local/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/contex \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1
WORKDIR /src
# Dependencies first: they rarely change and are most of the image.
COPY pyproject.toml uv.lock ./
COPY clients/cli/pyproject.toml clients/cli/
COPY clients/python/pyproject.toml clients/python/
COPY examples/demo/pyproject.toml examples/demo/
RUN uv sync --frozen --no-dev --all-extras --no-install-workspace
COPY LICENSE README.md ./
COPY clients/cli clients/cli
COPY clients/python clients/python
COPY examples/demo examples/demo
COPY service service
RUN uv sync --frozen --no-dev --all-extras --no-editable

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="contex" \
      org.opencontainers.image.description="Contex: an event-sourced context bus for AI agents" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# New volumes take their owner from these: /data is for the store, the archive and the keys, unless
# these are to be apart from the rest, in /keys, as in compose.yaml.
RUN groupadd --gid 10001 contex \
    && useradd --uid 10001 --gid contex --no-create-home --home-dir /data --shell /usr/sbin/nologin contex \
    && install --directory --owner=contex --group=contex --mode=0700 /data /keys
COPY --from=build /opt/contex /opt/contex
ENV PATH=/opt/contex/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    CONTEX_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 50051
STOPSIGNAL SIGTERM
# Loading a large data directory can take two minutes, during which it is not unhealthy.
HEALTHCHECK --interval=10s --timeout=6s --start-period=120s --retries=3 CMD ["contex", "health"]
ENTRYPOINT ["contex"]
# Listens on all addresses of the container, in plain text: publish the port on a loopback or private
# address only, or give it a certificate, see docs/operations/tls.md. The first key is printed at the
# first start, and is in /data/admin.key.
CMD ["serve", "--host", "0.0.0.0", "--insecure"]
