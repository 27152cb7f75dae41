#!/usr/bin/env bash
# Installs what this repository needs and the machine lacks: PostgreSQL 13-18
# (client and server), for the race detector gcc, and the HAProxy that tests put
# before the API. Says what it does before it does it, says nothing when nothing
# is missing, touches no existing PostgreSQL cluster and leaves no service on.
#
#   scripts/setup.sh              PostgreSQL, gcc and HAProxy
#   scripts/setup.sh postgresql   PostgreSQL only: enough for the demo
#   scripts/setup.sh gcc          gcc only
#   scripts/setup.sh debootstrap  to make a Debian image where no registry answers
#   scripts/setup.sh compose      docker compose, or docker-compose
#   scripts/setup.sh haproxy      HAProxy only
set -euo pipefail

readonly OLDEST=13 NEWEST=18
readonly DROPIN=/etc/postgresql-common/createcluster.d/interrex-setup.conf

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# postgresql_found: a server of a supported version in PATH or where Debian
# puts it. initdb stands for the whole server package.
postgresql_found() {
	local initdb major
	for initdb in "$(command -v initdb || true)" /usr/lib/postgresql/*/bin/initdb; do
		[ -x "$initdb" ] || continue
		major=$("$initdb" --version 2>/dev/null | sed -n 's/[^0-9]*\([0-9]*\).*/\1/p')
		[ -n "$major" ] && [ "$major" -ge "$OLDEST" ] && [ "$major" -le "$NEWEST" ] && return 0
	done
	return 1
}

debootstrap_found() { as_root sh -c 'command -v debootstrap' >/dev/null 2>&1; }

# Either generation reads docker-compose.yml.
compose_found() { docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null 2>&1; }

gcc_found() { command -v "${CC:-gcc}" >/dev/null 2>&1; }

# haproxy_found: Debian keeps it where only root's PATH leads.
haproxy_found() { [ -x /usr/sbin/haproxy ] || command -v haproxy >/dev/null 2>&1; }

# as_root runs a command with root's rights: directly, or through sudo. In a
# pipeline nobody can type a password, so sudo may not ask for one there.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif [ -t 0 ]; then
		sudo "$@"
	else
		sudo -n "$@"
	fi
}

# The server package of Debian and Ubuntu creates and starts a cluster "main" on
# port 5432 at its first installation. Nobody who runs a demo asked for that, so
# a drop-in forbids it while we install, and is removed afterwards.
forbid_main_cluster() {
	as_root mkdir -p "${DROPIN%/*}"
	printf 'create_main_cluster = false\n' | as_root tee "$DROPIN" >/dev/null
	trap 'as_root rm -f "$DROPIN"' EXIT
}

# The package of HAProxy starts a service and enables it. Tests run the program
# themselves: what this installation brought is stopped and disabled. Without
# systemd, as in a container, there is nothing that would have started it.
no_haproxy_service() {
	if [ -d /run/systemd/system ]; then
		as_root systemctl disable --now --quiet haproxy.service
	elif command -v update-rc.d >/dev/null 2>&1; then
		as_root service haproxy stop >/dev/null 2>&1 || true # it was not started
		as_root update-rc.d haproxy disable >/dev/null
	fi
}

install_packages() {
	local packages=("$@") how=""
	command -v apt-get >/dev/null 2>&1 || fail "missing: ${packages[*]}, and there is no apt-get here; install PostgreSQL ${OLDEST}-${NEWEST} (server and client), gcc and haproxy by hand, put their programs in PATH, and run this again"
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null 2>&1 || fail "missing: ${packages[*]}; run as root: apt-get install ${packages[*]}"
		how=" through sudo"
	fi
	say "installing with apt-get${how}: ${packages[*]}"
	local log
	log=$(mktemp)
	case " ${packages[*]} " in *" postgresql "*) forbid_main_cluster ;; esac
	if ! { as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
		tail -n 30 "$log" >&2
		fail "apt-get failed; its last lines stand above, all of them in $log"
	fi
	rm -f "$log"
	case " ${packages[*]} " in *" haproxy "*) no_haproxy_service ;; esac
	say "installed: ${packages[*]}"
}

main() {
	local wanted=("$@") missing=() item
	[ ${#wanted[@]} -gt 0 ] || wanted=(postgresql gcc haproxy)
	for item in "${wanted[@]}"; do
		case "$item" in
		postgresql) postgresql_found || missing+=(postgresql) ;;
		debootstrap) debootstrap_found || missing+=(debootstrap) ;;
		compose) compose_found || missing+=(docker-compose) ;;
		gcc) gcc_found || missing+=(gcc libc6-dev) ;;
		haproxy) haproxy_found || missing+=(haproxy) ;;
		*) fail "unknown item \"$item\"; give postgresql, gcc, haproxy, compose, debootstrap, or nothing for postgresql, gcc and haproxy" ;;
		esac
	done
	[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
	for item in "${wanted[@]}"; do
		"${item}_found" || fail "$item is still not found after the installation; PostgreSQL ${OLDEST}-${NEWEST} must be in PATH or in /usr/lib/postgresql/*/bin, gcc in PATH, haproxy in PATH or in /usr/sbin"
	done
}

main "$@"
