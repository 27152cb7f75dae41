#!/usr/bin/env bash
# Prints the packages of this module, one import path per line.
#
#   scripts/packages.sh postgres   those whose tests start a real PostgreSQL: one at a time
#   scripts/packages.sh runners    the places to run commands in: want a real sshd and Docker Engine
#   scripts/packages.sh plain      the others: they may run side by side
#
# A package starts servers when its tests use internal/unroot (PostgreSQL
# refuses to run as root), the lab, or Debian's pg_createcluster (debiantest).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly MARK='interrex/internal/unroot"\|interrex/lab"\|interrex/internal/debiantest"'

kind=${1:-}
case "$kind" in
postgres | runners | plain) ;;
*)
	echo "packages.sh: \"$kind\" is none of postgres, runners, plain" >&2
	exit 2
	;;
esac

go list -f '{{.ImportPath}} {{.Dir}}' ./... | while read -r path dir; do
	found=plain
	case "$path" in */executors/remote | */executors/ssh | */executors/docker) found=runners ;; esac
	if grep -qs "$MARK" "$dir"/*_test.go; then found=postgres; fi
	if [ "$found" = "$kind" ]; then echo "$path"; fi
done | grep . || {
	echo "packages.sh: no package of kind $kind found; is go list ./... in order?" >&2
	exit 1
}
