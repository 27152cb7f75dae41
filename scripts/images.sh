#!/usr/bin/env bash
# Sees to the image that docker-compose.yml stands on, debian:bookworm-slim: says
# nothing when Docker has it, pulls it when a registry answers, and otherwise
# makes it on this machine with debootstrap, from the Debian mirror that this
# machine's own apt uses.
#
#   scripts/images.sh
set -euo pipefail
cd "$(dirname "$0")/.."

readonly SUITE=bookworm IMAGE=debian:bookworm-slim
readonly PULL_WAIT=30 # seconds for a registry to deliver about 30 MB, or to refuse

say() { printf 'images: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif [ -t 0 ]; then
		sudo "$@"
	else
		sudo -n "$@"
	fi
}

image_there() { docker image inspect "$IMAGE" >/dev/null 2>&1; }

# mirror prints the address that apt itself fetches this suite from. apt knows
# both forms of its sources, and expands them.
mirror() {
	command -v apt-get >/dev/null 2>&1 || return 0
	apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		awk -v suite="$SUITE" '$1 == suite && $2 ~ /^https?:/ { print $2; exit }'
}

# make_image builds the suite's smallest root and imports it. What a container
# never reads (lists, archives, manuals) stays out, as in the image of a registry.
make_image() {
	local from log
	from=$(mirror)
	[ -n "$from" ] || fail "no registry has $IMAGE for us, and this machine's apt has no source of Debian $SUITE to make it from; pull it by hand (docker pull $IMAGE) or load it (docker load), and run this again"
	scripts/setup.sh debootstrap
	work=$(mktemp -d)
	trap 'as_root rm -rf "$work"' EXIT
	log=$work/log
	say "making $IMAGE with debootstrap, about a minute"
	if ! as_root debootstrap --variant=minbase "$SUITE" "$work/root" "$from" >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		fail "debootstrap failed; its last lines stand above"
	fi
	add_updates "$from" "$work/root/etc/apt/sources.list"
	as_root tar -C "$work/root" -c --exclude='./var/cache/apt/archives/*.deb' --exclude='./var/lib/apt/lists/*' \
		--exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' . |
		docker import --change 'CMD ["bash"]' - "$IMAGE" >/dev/null
}

# add_updates makes the image install what Debian published since the release:
# the same sources as this machine's own, as far as they are of this suite.
add_updates() {
	local from=$1 file=$2
	{
		apt-get indextargets --format '$(RELEASE) $(REPO_URI) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
			awk -v suite="$SUITE" '$3 == "main" && ($1 == suite || index($1, suite "-") == 1) && $2 ~ /^http:/ { print "deb", $2, $1, "main" }'
		printf 'deb %s %s main\n' "$from" "$SUITE"
	} | awk '{ sub("/ ", " ") } !seen[$0]++' | as_root tee "$file" >/dev/null
}

main() {
	command -v docker >/dev/null 2>&1 || fail "docker is not in PATH; install it (Debian: apt-get install docker.io) and run this again"
	docker version --format '{{.Server.Version}}' >/dev/null 2>&1 || fail "Docker's daemon does not answer: start it, or set DOCKER_HOST to where it listens (docker version says what is wrong)"
	image_there && return 0
	say "asking a registry for $IMAGE"
	if timeout "$PULL_WAIT" docker pull -q "$IMAGE" >/dev/null 2>&1; then
		return 0
	fi
	make_image
	image_there || fail "$IMAGE is not there although it was imported; see: docker images"
}

main
