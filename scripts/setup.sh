#!/usr/bin/env bash
# Installs what this repository needs and the machine lacks: PostgreSQL 13-18
# (client and server), for the race detector gcc, and what tests stand on: an
# OpenSSH server, a Docker Engine and HAProxy. Says what it does before it does
# it, says nothing when nothing is missing, and touches no existing PostgreSQL
# cluster. Servers of OpenSSH and HAProxy that it installs are neither started
# nor enabled: the tests start their own, on loopback.
#
#   scripts/setup.sh              all that the tests want: the first five
#   scripts/setup.sh postgresql   PostgreSQL only: enough for the demo
#   scripts/setup.sh gcc          gcc only
#   scripts/setup.sh debootstrap  to make a Debian image where no registry answers
#   scripts/setup.sh compose      docker compose, or docker-compose
#   scripts/setup.sh haproxy      HAProxy only
#   scripts/setup.sh sshd         an OpenSSH server and client, as programs only
#   scripts/setup.sh docker       a Docker Engine that answers
set -euo pipefail

readonly OLDEST=13 NEWEST=18
readonly POLICY=/usr/sbin/policy-rc.d
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

sshd_found() { [ -x /usr/sbin/sshd ] && command -v ssh-keygen >/dev/null 2>&1 && command -v ssh-agent >/dev/null 2>&1; }

docker_found() { command -v docker >/dev/null 2>&1 && docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

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
	undo+=("rm -f $DROPIN")
}

# The package of the OpenSSH server starts it at its installation, on port 22,
# and has it started at each boot. The tests need neither. Debian asks policy-rc.d
# before it starts a service; one that stands there already is put back.
forbid_sshd() {
	if [ -e "$POLICY" ]; then
		as_root mv "$POLICY" "$POLICY.interrex-setup"
		undo+=("mv $POLICY.interrex-setup $POLICY")
	else
		undo+=("rm -f $POLICY")
	fi
	printf '#!/bin/sh\ncase $1 in ssh | ssh.*) exit 101 ;; esac\nexit 0\n' | as_root tee "$POLICY" >/dev/null
	as_root chmod 755 "$POLICY"
}

disable_sshd() {
	if command -v systemctl >/dev/null 2>&1; then
		as_root systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true # there may be no socket
	fi
	as_root update-rc.d ssh disable >/dev/null
}

# undone takes back what was put up for the time of an installation.
undo=()
undone() {
	local i
	for ((i = ${#undo[@]} - 1; i >= 0; i--)); do
		# shellcheck disable=SC2086 # words of our own
		as_root ${undo[i]}
	done
	undo=()
}
trap undone EXIT

# start_docker starts an Engine that is installed and does not answer.
start_docker() {
	local log i
	[ -z "${DOCKER_HOST:-}" ] || fail "DOCKER_HOST is $DOCKER_HOST, and no Engine answers there: $(docker version 2>&1 | tail -n 1)"
	say "starting the Docker Engine"
	log=$(mktemp)
	as_root service docker start >"$log" 2>&1 || true # whether it answers is what counts
	for ((i = 0; i < 60; i++)); do
		docker_found && rm -f "$log" && return
		sleep 0.5
	done
	tail -n 5 "$log" >&2
	fail "the Docker Engine does not answer: $(docker version 2>&1 | tail -n 1); may this account use its socket (group docker)?"
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
	case " ${packages[*]} " in *" openssh-server "*) forbid_sshd ;; esac
	if ! { as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
		tail -n 30 "$log" >&2
		fail "apt-get failed; its last lines stand above, all of them in $log"
	fi
	rm -f "$log"
	case " ${packages[*]} " in *" haproxy "*) no_haproxy_service ;; esac
	case " ${packages[*]} " in *" openssh-server "*) disable_sshd ;; esac
	undone
	say "installed: ${packages[*]}"
}

main() {
	local wanted=("$@") missing=() item
	[ ${#wanted[@]} -gt 0 ] || wanted=(postgresql gcc sshd docker haproxy)
	for item in "${wanted[@]}"; do
		case "$item" in
		postgresql) postgresql_found || missing+=(postgresql) ;;
		debootstrap) debootstrap_found || missing+=(debootstrap) ;;
		compose) compose_found || missing+=(docker-compose) ;;
		gcc) gcc_found || missing+=(gcc libc6-dev) ;;
		haproxy) haproxy_found || missing+=(haproxy) ;;
		sshd)
			[ -x /usr/sbin/sshd ] || missing+=(openssh-server)
			sshd_found || missing+=(openssh-client)
			;;
		docker) docker_found || [ -x /usr/sbin/dockerd ] || [ -n "${DOCKER_HOST:-}" ] || missing+=(docker.io iptables) ;;
		*) fail "unknown item \"$item\"; give postgresql, gcc, sshd, docker, haproxy, compose, debootstrap, or nothing for the first five" ;;
		esac
	done
	[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
	for item in "${wanted[@]}"; do
		if [ "$item" = docker ]; then docker_found || start_docker; fi
		"${item}_found" || fail "$item is still not found after the installation; PostgreSQL ${OLDEST}-${NEWEST} must be in PATH or in /usr/lib/postgresql/*/bin, gcc in PATH, haproxy in PATH or in /usr/sbin"
	done
}

main "$@"
