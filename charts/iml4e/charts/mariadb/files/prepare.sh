#!/bin/sh
# Before each start: create the data directory if there is none, and write the statements that the server runs at its start.
# So databases, users and passwords follow the values and the Secrets, on the first start and on every later one.
# `prepare.sh FOLDER` writes the statements there and nothing else, for accounts.sh.
set -eu
umask 077

VOLUME=/var/lib/mysql
FOLDER=${1:-/run/mysqld}

# The text of a file between quotes of SQL.
quoted() {
    printf "'%s'" "$(sed "s/\\\\/\\\\\\\\/g; s/'/''/g" "$1")"
}

# What the user of a Secret logs in with: a password, or either of two while the password rotates.
identified() {
    if [ -f "$1/second.password" ]; then
        printf 'IDENTIFIED VIA mysql_native_password USING PASSWORD(%s) OR mysql_native_password USING PASSWORD(%s)' \
            "$(quoted "$1/password")" "$(quoted "$1/second.password")"
    else
        printf 'IDENTIFIED BY %s' "$(quoted "$1/password")"
    fi
}

# my.cnf includes it
printf '[client]\npassword = "%s"\n' "$(sed 's/["\\]/\\&/g' /secrets/root/rootPassword)" >"$FOLDER/root.cnf"

if [ ! -d "$VOLUME/data" ]; then
    echo "prepare: making the data directory"
    # under another name first: one that was cut short must not pass for whole
    rm -rf "$VOLUME/data.new"
    # --force: whether the pod's own name can be looked up does not matter
    told=$(mariadb-install-db --defaults-file=/etc/mysql/my.cnf --datadir="$VOLUME/data.new" --force \
        --auth-root-authentication-method=normal --skip-test-db 2>&1) || {
        echo "$told" >&2
        exit 1
    }
    mv "$VOLUME/data.new" "$VOLUME/data"
fi

# One statement a line, the server knows no other form; echo would eat backslashes.
statement() {
    printf '%s;\n' "$1"
}

{
    statement "ALTER USER 'root'@'localhost' IDENTIFIED BY $(quoted /secrets/root/rootPassword)"
    # every other root comes over the network
    statement "DELETE FROM mysql.global_priv WHERE User = 'root' AND Host <> 'localhost'"
    statement "DELETE FROM mysql.proxies_priv WHERE User = 'root' AND Host <> 'localhost'"
    statement "FLUSH PRIVILEGES"
    for secret in /secrets/databases/*; do
        [ -d "$secret" ] || continue
        user=$(quoted "$secret/username")@\'%\'
        statement "CREATE USER IF NOT EXISTS $user $(identified "$secret")"
        statement "ALTER USER $user $(identified "$secret")"
        # the database may be made after it
        statement "GRANT ALL PRIVILEGES ON \`$(sed 's/_/\\_/g' "$secret/database")\`.* TO $user"
    done
    if [ -d /secrets/metrics ]; then
        # reads SHOW GLOBAL STATUS and VARIABLES, for which a user needs no privilege
        user=$(quoted /secrets/metrics/username)@\'%\'
        statement "CREATE USER IF NOT EXISTS $user $(identified /secrets/metrics)"
        statement "ALTER USER $user $(identified /secrets/metrics) WITH MAX_USER_CONNECTIONS 3"
    fi
} >"$FOLDER/accounts.sql"

{
    cat "$FOLDER/accounts.sql"
    for secret in /secrets/databases/*; do
        [ -d "$secret" ] || continue
        database=$(cat "$secret/database")
        statement "CREATE DATABASE IF NOT EXISTS \`$database\`"
        # one that was made by an older chart; its tables are up to collation.sh
        statement "ALTER DATABASE \`$database\` CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
        if [ "${secret##*/}" = mlpipeline ]; then
            # Kubeflow Pipelines looks for reusable steps by this column, for which it makes no index
            statement "ALTER TABLE IF EXISTS \`$database\`.tasks ADD INDEX IF NOT EXISTS iml4e_fingerprint (Fingerprint)"
        fi
        echo "prepare: database $database" >&2
    done
} >"$FOLDER/init.sql"
