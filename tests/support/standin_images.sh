#!/bin/sh
# Make the two base images that Dockerfile and docker-compose.yml name, on a machine that can pull none: a Debian
# with Python, and one with Debian's PostgreSQL behind the official image's variables and volume path.
# Needs root, debootstrap, a Docker engine, and pip as this machine has it set up; about three minutes.
#
#   tests/support/standin_images.sh && pytest tests/acceptance/test_compose.py
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for image in python:3.11-slim-bookworm postgres:18; do
    if docker image inspect "$image" >/dev/null 2>&1; then
        echo "$image is here already: remove it first, a stand-in shall not hide the real one" >&2
        exit 1
    fi
done

echo "Debian ..." >&2
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/python" >"$work/log" 2>&1 ||
    { tail "$work/log" >&2; exit 1; }
tar -C "$work/python" -c . | docker import - hpo-standin:debian >/dev/null

# All wheels go in, so the build asks no index: this machine's pip may be set up in ways the image cannot be.
echo "wheels ..." >&2
python3 - "$here/pyproject.toml" >"$work/requirements.txt" <<'PYTHON'
import sys
import tomllib

file = tomllib.load(open(sys.argv[1], "rb"))
project = file["project"]
wanted = [*project["dependencies"], *project["optional-dependencies"]["s3"], *file["build-system"]["requires"]]
wanted.append("ziglang")  # hatch_build.py compiles with it, as the official slim image has no cc either
print(*wanted, sep="\n")
PYTHON
mkdir "$work/context"
python3 -m pip download --quiet --dest "$work/context/wheels" --constraint "$here/constraints.txt" \
    --requirement "$work/requirements.txt"
printf '[global]\nno-index = true\nfind-links = /wheels\n' >"$work/context/pip.conf"
cat >"$work/context/Dockerfile" <<'DOCKERFILE'
FROM hpo-standin:debian
COPY wheels /wheels
COPY pip.conf /etc/pip.conf
DOCKERFILE
docker build --quiet --tag python:3.11-slim-bookworm "$work/context"

echo "PostgreSQL ..." >&2
mkdir "$work/postgres"
cat >"$work/postgres/entrypoint.sh" <<'SH'
#!/bin/bash
set -euo pipefail
: "${PGDATA:=/var/lib/postgresql/18/docker}"
export PGDATA
if [ "$(id -u)" = 0 ]; then
    install --directory --owner=postgres --group=postgres --mode=700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --encoding=UTF8 --locale=C.UTF-8 --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        --auth-host=scram-sha-256 --auth-local=trust >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    # As the official image: while the database is made the server listens on the Unix socket alone.
    pg_ctl --wait --options="-c listen_addresses=''" start >/dev/null
    createdb --username="$POSTGRES_USER" --maintenance-db=postgres "$POSTGRES_DB"
    pg_ctl --wait --mode=fast stop >/dev/null
fi
exec "$@"
SH
chmod +x "$work/postgres/entrypoint.sh"
cat >"$work/postgres/Dockerfile" <<'DOCKERFILE'
FROM hpo-standin:debian
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/*
RUN ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/
COPY entrypoint.sh /usr/local/bin/
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
ENTRYPOINT ["entrypoint.sh"]
CMD ["postgres", "-c", "listen_addresses=*"]
DOCKERFILE
docker build --quiet --tag postgres:18 "$work/postgres"
