#!/bin/bash
# Before each start: convert the text columns of the databases to the collation utf8mb4_nopad_bin, table by table.
# ALTER TABLE is atomic, and foreign keys are saved to a file before they are dropped: an interruption
# loses nothing, and the next start continues.
set -euo pipefail

COLLATION=utf8mb4_nopad_bin
VOLUME=/var/lib/mysql
# the statements that bring the foreign keys back; it is there while some may be missing
FOREIGN_KEYS=$VOLUME/foreign-keys.sql

say() {
    echo "collation: $*"
}

sql() {
    mariadb --defaults-file=/etc/mysql/my.cnf --default-character-set=utf8mb4 --batch --skip-column-names \
        --init-command="SET SESSION foreign_key_checks = 0, group_concat_max_len = 1000000" --execute="$1"
}

# A server that nobody but this container reaches, so it asks for no password.
mariadbd --defaults-file=/etc/mysql/my.cnf --skip-networking --skip-grant-tables 2>/tmp/server.log &
server=$!
stop() {
    kill "$server" 2>/dev/null || true
    wait "$server" || true
}
trap stop EXIT
trap 'exit 143' TERM INT
until sql "DO 1" 2>/dev/null; do
    kill -0 "$server" 2>/dev/null || {
        cat /tmp/server.log >&2
        say "the server does not start; its log is above." >&2
        exit 1
    }
    sleep 0.1
done

ours="''"
for file in /secrets/databases/*/database; do
    ours="$ours, '$(cat "$file")'"
done
# Tables that are, or have text, of another collation. JSON is utf8mb4_bin by definition.
other="FROM information_schema.tables t LEFT JOIN information_schema.columns c USING (table_schema, table_name)
    WHERE t.table_type = 'BASE TABLE' AND t.table_schema IN ($ours) AND (t.table_collation <> '$COLLATION'
        OR c.collation_name <> '$COLLATION' AND NOT (c.collation_name = 'utf8mb4_bin' AND c.data_type = 'longtext'))"
# A row for each pair of columns of a foreign key that has text.
keys="(SELECT CONCAT('\`', k.table_schema, '\`.\`', k.table_name, '\`') AS child,
        CONCAT('\`', k.referenced_table_schema, '\`.\`', k.referenced_table_name, '\`') AS parent,
        CONCAT('\`', k.constraint_name, '\`') AS name, k.ordinal_position AS place, c.collation_name AS collation,
        CONCAT('\`', k.column_name, '\`') AS own, CONCAT('\`', k.referenced_column_name, '\`') AS parents,
        IF(r.delete_rule IN ('RESTRICT', 'NO ACTION'), '', CONCAT(' ON DELETE ', r.delete_rule)) AS on_delete,
        IF(r.update_rule IN ('RESTRICT', 'NO ACTION'), '', CONCAT(' ON UPDATE ', r.update_rule)) AS on_update
    FROM information_schema.key_column_usage k
    JOIN information_schema.referential_constraints r USING (constraint_schema, table_name, constraint_name)
    JOIN information_schema.columns c USING (table_schema, table_name, column_name)
    WHERE k.table_schema IN ($ours)) k GROUP BY child, name, parent, on_delete, on_update HAVING COUNT(collation) > 0"

tables=$(sql "SELECT DISTINCT CONCAT('\`', t.table_schema, '\`.\`', t.table_name, '\`') $other ORDER BY t.data_length")
[ -n "$tables" ] || [ -e "$FOREIGN_KEYS" ] || exit 0
needed=$(sql "SELECT COALESCE(CEIL(MAX(file_size) / 1048576), 0) FROM information_schema.innodb_sys_tablespaces
    WHERE name IN (SELECT CONCAT(t.table_schema, '/', t.table_name) $other)")
free=$(df --output=avail -B1M "$VOLUME" | tail -n 1)
if [ "$free" -lt "$needed" ]; then
    say "the volume has ${free// /} MiB free, and its largest table takes $needed MiB while it is converted to $COLLATION." \
        "Nothing was changed. Grow the volume (docs/install.md, Volumes), or go back: helm rollback." >&2
    exit 1
fi
say "converting $(wc -w <<<"$tables") tables to $COLLATION"

if [ ! -e "$FOREIGN_KEYS" ]; then
    # To the old collation other spellings were the same key, so a row may refer to its parent by another one. It gets the
    # parent's, and so do, the next time round, rows that refer to it.
    references=$(sql "SELECT CONCAT('UPDATE ', child, ' c JOIN ', parent, ' p ON ',
            GROUP_CONCAT('c.', own, ' = p.', parents SEPARATOR ' AND '), ' SET ',
            GROUP_CONCAT('c.', own, ' = p.', parents), ' WHERE ',
            GROUP_CONCAT('BINARY c.', own, ' <> BINARY p.', parents SEPARATOR ' OR '), '; SELECT ROW_COUNT();')
        FROM $keys")
    while [ -n "$references" ]; do
        changed=0
        for count in $(sql "$references"); do
            changed=$((changed + count))
        done
        [ "$changed" -gt 0 ] || break
        say "$changed rows now spell what they refer to as it is spelled there, after $SECONDS s"
    done
    sql "SELECT CONCAT('ALTER TABLE ', child, ' ADD CONSTRAINT ', name, ' FOREIGN KEY (', GROUP_CONCAT(own ORDER BY place),
            ') REFERENCES ', parent, ' (', GROUP_CONCAT(parents ORDER BY place), ')', on_delete, on_update, ';')
        FROM $keys" >"$FOREIGN_KEYS.new"
    sync "$FOREIGN_KEYS.new"
    mv "$FOREIGN_KEYS.new" "$FOREIGN_KEYS"
fi

# nothing can change the collation of a foreign key
sql "$(sql "SELECT CONCAT('ALTER TABLE ', child, ' DROP FOREIGN KEY ', name, ';') FROM $keys")"
for table in $tables; do
    sql "ALTER TABLE $table CONVERT TO CHARACTER SET utf8mb4 COLLATE $COLLATION" &
    alter=$!
    told=$SECONDS
    while kill -0 "$alter" 2>/dev/null; do
        sleep 0.1
        if [ $((SECONDS - told)) -ge 30 ]; then
            say "$table: step $(sql "SELECT CONCAT(stage, ' of ', max_stage, ', ', ROUND(progress), ' %')
                FROM information_schema.processlist WHERE info LIKE 'ALTER TABLE%'"), after $SECONDS s"
            told=$SECONDS
        fi
    done
    wait "$alter" || {
        say "$table stays as it was, for the reason above; the next start goes on with it." >&2
        exit 1
    }
done
sql "$(cat "$FOREIGN_KEYS")"
rm "$FOREIGN_KEYS"
say "done after $SECONDS s"
