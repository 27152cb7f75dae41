#!/usr/bin/env bash
# Sees to it that the Docker Engine has the base image of this repository's
# Dockerfile. It is pulled when a registry answers; else it is made from Debian's
# own packages, with the mirror that this machine installs its packages from.
# Says nothing when the image is there.
#
#   scripts/images.sh
set -euo pipefail
cd "$(dirname "$0")/.."

readonly SUITE=bookworm IMAGE=debian:bookworm-slim
readonly PULL_SECONDS=60

say() { printf 'images: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# mirror prints the first address from which this machine's apt takes packages.
mirror() {
	local file
	for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.sources; do
		[ -r "$file" ] || continue
		awk '/^URIs:/ { print $2; found = 1; exit } END { exit !found }' "$file" && return 0
	done
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ -r "$file" ] || continue
		# An option block like [arch=amd64] stands between "deb" and the address.
		sed 's/\[[^]]*\]//' "$file" | awk '$1 == "deb" && $2 ~ /:\/\// { print $2; found = 1; exit } END { exit !found }' && return 0
	done
	return 1
}

# make_image builds the base like Debian's own: a minimal system and nothing else.
make_image() {
	local from work status=0
	from=$(mirror) || fail "$IMAGE cannot be pulled, and it cannot be made here: /etc/apt names no package mirror; load the image by hand (docker load), then run this again"
	scripts/setup.sh debootstrap
	[ "$(id -u)" -eq 0 ] || fail "$IMAGE cannot be pulled, and making it here needs root (debootstrap): run sudo scripts/images.sh once"
	work=$(mktemp -d)
	say "making $IMAGE with debootstrap; this takes about a minute"
	if ! debootstrap --variant=minbase "$SUITE" "$work/root" "$from" >"$work/log" 2>&1; then
		tail -n 20 "$work/log" >&2
		rm -rf "$work"
		fail "debootstrap of $SUITE failed; its last lines stand above. The mirror of this machine's apt must carry Debian's $SUITE"
	fi
	rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
	tar -C "$work/root" -c . | docker import --message "made with debootstrap" - "$IMAGE" >/dev/null || status=$?
	rm -rf "$work"
	[ "$status" -eq 0 ] || fail "docker import of $IMAGE failed"
	say "made $IMAGE"
}

main() {
	command -v docker >/dev/null 2>&1 || fail "no docker command; install the Docker CLI and Engine"
	local said
	said=$(docker version --format '{{.Server.Version}}' 2>&1) || fail "the Docker Engine does not answer: $said"
	if docker image inspect "$IMAGE" >/dev/null 2>&1; then return 0; fi
	if timeout "$PULL_SECONDS" docker pull -q "$IMAGE" >/dev/null 2>&1; then
		say "pulled $IMAGE"
		return 0
	fi
	say "no registry gives $IMAGE"
	make_image
}

main "$@"
