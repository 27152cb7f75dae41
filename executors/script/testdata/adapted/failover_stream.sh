#!/usr/bin/env bash
# The tutorial's failover_stream.sh, telling by its exit status whether it worked;
# the tutorial's ends with that of an echo. Its pg_ctl promote is right from 9.1 to
# 18; a trigger file, which older scripts touch, is looked at no more since 16.
# Arguments: %d %h %p %D %m %M %H %P %r %R
set -euo pipefail

failed=$1 old_primary=$8 new_host=$7 new_data=${10}
[ "$failed" = "$old_primary" ] || exit 0 # a standby failed
ssh -T "postgres@$new_host" "pg_ctl -D '$new_data' -w promote"
