# One image for workers, producers and Flower; docker-compose.yml says what each runs. And one for workers without
# TensorFlow, which serve model sets that `celeriac models --build` has made:
#
#   docker build -t celeriac-runtime --build-arg EXTRAS=runtime,openvino,metrics,signing .
#
# The Python that constraints.txt was made with.
FROM python:3.11.13-slim-bookworm

# Logs appear at once; nothing is left of pip's downloads.
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /src

ARG EXTRAS=demo,flower,metrics,signing
# Dependencies first, with empty packages in the place of ours: this large layer outlives every change of the sources.
COPY pyproject.toml constraints.txt ./
RUN mkdir celeriac producer tasks worker_config && touch README.md LICENSE \
    && pip install --constraint constraints.txt hatchling \
    && pip install --constraint constraints.txt --no-build-isolation ".[$EXTRAS]"

COPY README.md LICENSE ./
COPY worker_config worker_config
COPY tasks tasks
COPY producer producer
COPY celeriac celeriac
RUN pip install --no-build-isolation --no-deps --force-reinstall .

# Not root; new volumes at /models and /cache take over these folders' owner.
RUN useradd --create-home celeriac && install --directory --owner celeriac --group celeriac /models /cache
USER celeriac
# Not /src: Celery puts the current folder first on the path.
WORKDIR /home/celeriac

CMD ["celeriac", "--help"]
