# The gateway in one image. Build: make docker. Run:
#   docker run -p 8080:8080 -v llm-scheduler:/app/data --stop-timeout 40 llm-scheduler:VERSION
# (Docker kills after 10 s by default; server.shutdown_timeout lets streams finish for 30 s.)

FROM python:3.11-slim AS build
ENV PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/llm-scheduler
ENV PATH=/opt/llm-scheduler/bin:$PATH
# The pinned packages first: they change less often than the source.
COPY requirements.txt requirements-build.txt ./
RUN pip install --no-deps -r requirements-build.txt -r requirements.txt
COPY . .
# The extras are pinned exactly in setup.py; all else is here already and stays as it is.
RUN pip install --no-build-isolation ".[postgres,redis]" && pip check && pip uninstall -y setuptools

FROM python:3.11-slim
ENV PATH=/opt/llm-scheduler/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN groupadd --gid 10001 scheduler \
    && useradd --uid 10001 --gid 10001 --home-dir /app --no-create-home --shell /usr/sbin/nologin scheduler
WORKDIR /app
RUN install -d -o scheduler -g scheduler -m 750 data
COPY --from=build /opt/llm-scheduler /opt/llm-scheduler
COPY wsgi.py gunicorn.conf.py config.yaml ./
COPY deploy/entrypoint.sh /usr/local/bin/llm-scheduler-entrypoint
VOLUME /app/data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["llm-scheduler", "healthcheck"]
# Starts as root only to take over the data volume, and runs as 10001; `--user 10001` skips even that.
ENTRYPOINT ["llm-scheduler-entrypoint"]
CMD ["llm-scheduler", "serve"]
