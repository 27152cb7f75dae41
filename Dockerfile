# One image for all services of docker-compose.yml: PostgreSQL 15 and the static
# binary that `task dist` built. No compiler, no cluster "main".
FROM debian:bookworm-slim

# The slow layer, first and without anything of ours in it: it is built once.
RUN set -eu; \
    mkdir -p /etc/postgresql-common/createcluster.d; \
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/interrex.conf; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -q; \
    apt-get install -q -y --no-install-recommends postgresql-15; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb; \
    install -d -o postgres -g postgres -m 0700 /var/lib/interrex; \
    install -d -m 1777 /run/interrex

COPY dist/interrex-linux-amd64 /usr/local/bin/interrex

# Begins as root, because compose mounts secrets as files of root's; it reads
# them and goes on as postgres before anything else (interrex in-container).
ENTRYPOINT ["interrex", "in-container"]
