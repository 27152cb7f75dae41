#!/usr/bin/env bash
# Makes what docker-compose.yml mounts as secrets, in secrets/ or the directory
# given: the log's key of each role and PostgreSQL's passwords, mode 0600. Says
# nothing and changes nothing where they are.
#
#   scripts/compose-secrets.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."

binary=dist/interrex-linux-amd64
[ -x "$binary" ] || { printf 'compose-secrets: %s is missing: build it with: go tool task dist\n' "$binary" >&2; exit 1; }
exec "$binary" compose-secrets "${1:-secrets}"
