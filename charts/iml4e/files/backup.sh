#!/bin/bash
# Dumps the databases for a backup, or loads them for a restore; runs on MariaDB's image, between the two steps of backup.py.
# Each database as its own user, which has no right on the others. A snapshot each: nothing is locked.
set -euo pipefail

DUMP=$WORK/dump

say() {
    echo "$MODE: $*"
}

fail() {
    say "$*" >&2
    exit 1
}

# Run a client for database $1; the password is not on the command line.
client() {
    role=$1 program=$2
    shift 2
    MYSQL_PWD=$(cat "/secrets/databases/$role/password") "$program" --no-defaults --host="$DATABASE_HOST" --port="$DATABASE_PORT" \
        --user="$(cat "/secrets/databases/$role/username")" --default-character-set=utf8mb4 "${TLS[@]}" "$@"
}

TLS=(--skip-ssl)
[ -z "${DATABASE_CA:-}" ] || TLS=(--ssl-ca="$DATABASE_CA" --ssl-verify-server-cert)

# --skip-comments: the same content is the same text. The end of a dump is its last line
dump() {
    client "$1" mariadb-dump --single-transaction --quick --hex-blob --skip-lock-tables --no-tablespaces --order-by-primary \
        --skip-comments --max-allowed-packet=1G "$(cat "/secrets/databases/$1/database")" && echo "-- end of dump"
}

# Digest of the rows, without what servers write around them. An INSERT has a line for each row; newlines in values are escaped
rows() {
    sed -n '/^INSERT INTO/{:a;p;/;$/!{n;ba}}' | sha256sum | cut -d ' ' -f 1
}

backup() {
    mkdir -p "$DUMP"
    for role in $DATABASES; do
        file=$DUMP/$role.sql.gz
        dump "$role" | gzip -1 >"$file.new" ||
            fail "database $role cannot be dumped: the reason is above. Look at the server, and at the room of the node's disk."
        [ "$(gzip -dc "$file.new" | tail -n 1)" = "-- end of dump" ] || fail "the dump of database $role has no end. Run the backup again."
        gzip -dc "$file.new" | rows >"$DUMP/$role.sql.rows"
        mv "$file.new" "$file"
        say "database $role dumped, $(stat -c %s "$file") bytes compressed"
    done
}

restore() {
    for file in "$DUMP"/*.sql.gz; do
        role=$(basename "$file" .sql.gz)
        name=$(cat "/secrets/databases/$role/database")
        [ "$(gzip -dc "$file" | tail -n 1)" = "-- end of dump" ] || fail "the dump of database $role has no end: use another backup."
        tables=$(client "$role" mariadb --batch --skip-column-names --execute="SELECT CONCAT('DROP ',
            IF(table_type = 'VIEW', 'VIEW', 'TABLE'), ' \`', table_name, '\`;') FROM information_schema.tables
            WHERE table_schema = DATABASE()" "$name") || fail "database $role does not let us in: the reason is above. Start the restore again."
        # tables of a newer schema as well
        { echo "SET foreign_key_checks = 0; $tables" && gzip -dc "$file"; } | client "$role" mariadb --max-allowed-packet=1G "$name" ||
            fail "database $role cannot be loaded: the reason is above. Correct it, and start the restore again: it goes on."
        dump "$role" | rows >"$DUMP/$role.rows"
        cmp -s "$DUMP/$role.rows" "$DUMP/$role.sql.rows" ||
            fail "the rows of database $role are not those of the backup after loading. Is another program at work on it? Start the restore again."
        say "database $role loaded and compared: every row is that of the backup"
    done
}

case $MODE in
    backup) backup ;;
    restore) restore ;;
esac
