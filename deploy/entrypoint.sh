#!/bin/sh
# The container's first process. As root it hands the data folder to the scheduler's user and becomes that user;
# as anybody else it only runs the command. Either way the command keeps this process id, and with it the signals.
set -eu
user=10001

if [ "$(id -u)" = 0 ]; then
    mkdir -p data
    # Only what is not ours yet: a volume with years of records must not cost minutes at each start.
    find data '(' '!' -user "$user" -o '!' -group "$user" ')' -exec chown -h "$user:$user" {} +
    export HOME="$PWD"
    exec setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs -- "$@"
fi
exec "$@"
