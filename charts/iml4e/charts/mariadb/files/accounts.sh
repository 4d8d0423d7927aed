#!/bin/sh
# While the server runs: make its users and passwords what the Secrets say. `accounts.sh [FILE STATE]…` waits until each FILE, the
# key `rotation` of a Secret, has its STATE: the kubelet brings a changed Secret some seconds later. `iml4e rotate` calls it.
set -eu
umask 077

PATIENCE=180
LIVE=/run/mysqld
NEXT=/run/mysqld/next

waited=0
while [ $# -ge 2 ]; do
    until [ "$(cat "$1" 2>/dev/null)" = "$2" ]; do
        if [ "$waited" -ge "$PATIENCE" ]; then
            echo "accounts: $1 has no state '$2' after $PATIENCE s: the kubelet did not bring the changed Secret." >&2
            exit 1
        fi
        waited=$((waited + 1))
        sleep 1
    done
    shift 2
done

rm -rf "$NEXT"
mkdir "$NEXT"
sh /etc/mysql/prepare.sh "$NEXT" 2>/dev/null
sql() {
    mariadb --defaults-file="$1" --user=root --socket=/run/mysqld/mysqld.sock
}
# the second password: of a try that was cut short
sql "$LIVE/root.cnf" <"$NEXT/accounts.sql" || sql "$NEXT/root.cnf" <"$NEXT/accounts.sql"
# what the server reads if its container starts again, and what probes log in with
mv "$NEXT/accounts.sql" "$NEXT/init.sql" "$NEXT/root.cnf" "$LIVE/"
rmdir "$NEXT"
echo "accounts: users and passwords are those of the Secrets"
