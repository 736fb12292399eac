# slayq-server. Build from the root of the checkout:  docker build -t slayq-server:0.1.0 .
# Run:  docker run -e SLAY_Q_DATABASE_URL=… -e SLAY_Q_SECRET=… -v ./slay-config.json:/etc/slayq/slay-config.json:ro slayq-server:0.1.0
# In a container, set http.bind to 0.0.0.0 in slay-config.json, or nothing outside reaches the health endpoints.
ARG PYTHON=3.11.13-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
# The environment gets no pip of its own: nothing is installed into it later.
RUN python -m venv --without-pip /opt/slayq
COPY pyproject.toml README.md ./
COPY migrations ./migrations
COPY slayq ./slayq
COPY slayq_server ./slayq_server
# The checkout itself; its dependencies have their versions from pyproject.toml.
# hadolint ignore=DL3013
RUN PIP_PYTHON=/opt/slayq/bin/python pip install --no-cache-dir ".[server]"

FROM python:${PYTHON} AS run
# Nothing is built or installed in this image, so what could do that goes. The user owns nothing and has no shell.
RUN pip uninstall --yes pip setuptools wheel \
    && groupadd --gid 10001 slayq \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin slayq
COPY --from=build /opt/slayq /opt/slayq
ENV PATH=/opt/slayq/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8288
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 CMD ["slayq-server", "healthcheck"]
ENTRYPOINT ["slayq-server"]
CMD ["/etc/slayq/slay-config.json"]
