#!/usr/bin/env bash
# The tutorial's basebackup.sh for PostgreSQL 12 and later, where recovery.conf is
# no more and pg_basebackup -R makes a standby. Runs on the primary's host;
# arguments as pgpool-II 4.3 passes them. It ends at the first step that fails.
set -euo pipefail

datadir=$1 desthost=$2 destdir=$3 port=$4 destid=$5 destport=$6 host=$7

# In one go, so that the directory is never empty and startable. The target's own
# port, where it differs, goes where it wins over the copied postgresql.conf.
ssh -T "postgres@$desthost" "
	set -e
	rm -rf '$destdir'
	pg_basebackup -D '$destdir' -Fp -Xs -c fast -R -h '$host' -p '$port' -U replicator --no-password
	echo \"port = $destport\" >> '$destdir/postgresql.auto.conf'
"
echo "node $destid: copied $datadir to $desthost:$destdir"
