# One image for every service of docker-compose.yml. CPU or CUDA is a build argument:
#
#   docker build --build-arg DEVICE=cuda --tag hpo:cuda .
#   docker build --build-arg DEVICE=cpu --build-arg PIP_ARGS="--extra-index-url URL" --tag hpo:cpu .
#
# The torch that PyPI has for Linux carries CUDA; it runs without a GPU too, but weighs some 5 GB. URL is the
# index of CPU builds that PyTorch's installation page names; without it the CPU image is merely large.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# --- the wheel: made apart, so that neither the build backend nor the sources stay in the image ---
FROM ${BASE_IMAGE} AS wheel
ARG PIP_ARGS=""
RUN python3 -m venv /venv
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY studies studies
COPY hpo hpo
RUN /venv/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheel ${PIP_ARGS} .

# --- the image ---
FROM ${BASE_IMAGE}
# socat: the way in for the dashboard, which listens on its own loopback alone (see docker-compose.yml).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends socat \
    && rm -rf /var/lib/apt/lists/*
# A venv, because Debian's own Python refuses packages from pip.
RUN python3 -m venv /opt/hpo
ENV PATH=/opt/hpo/bin:$PATH

# Dependencies before sources: this big layer changes only with these two files.
ARG PIP_ARGS=""
WORKDIR /tmp/install
COPY pyproject.toml constraints.txt ./
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*p['dependencies'], *p['optional-dependencies']['s3'], sep='\n')" > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt ${PIP_ARGS} --requirement requirements.txt

# A GPU worker that trains on the CPU unnoticed is a fault; a CPU image with CUDA in it is only large.
ARG DEVICE=cuda
RUN cuda=$(python3 -c 'import torch; print(torch.version.cuda or "")') \
    && case "${DEVICE}:${cuda}" in \
        cuda:) echo "DEVICE=cuda, but this torch is a CPU build: look at PIP_ARGS" >&2; exit 1 ;; \
        cpu:?*) echo "DEVICE=cpu, but this torch carries CUDA: PIP_ARGS can name an index of CPU builds" ;; \
        cpu:|cuda:?*) ;; \
        *) echo "DEVICE=${DEVICE}: it is cpu or cuda" >&2; exit 1 ;; \
    esac

COPY --from=wheel /wheel /wheel
RUN pip install --no-cache-dir --no-deps --no-index /wheel/*.whl

# The commit is told, for there is no repository in the image to ask; results carry it.
ARG GIT_COMMIT=""
ENV HPO_GIT_COMMIT=${GIT_COMMIT}

RUN useradd --create-home --uid 1000 hpo && install --directory --owner=hpo --group=hpo /work /data /artifacts
USER hpo
WORKDIR /work
ENTRYPOINT ["hpo"]
CMD ["--help"]
# No HEALTHCHECK here: a worker's health is the lease it renews in the database; the dashboard's check is in
# docker-compose.yml.
