#!/bin/sh
# Configure a running MinIO by the values: buckets, then for each consumer a policy, a user and its access key.
# Idempotent. The client's image has sh, cat and sleep, and little else.
set -eu

PATIENCE=300

say() {
    echo "minio-setup: $*"
}

# the reason is mc's own last words
fail() {
    say "$*" >&2
    exit 1
}

# Keys reach mc on its standard input: a command line can be read by others.
connect() {
    printf '%s\n%s\n' "$ROOT_USER" "$ROOT_PASSWORD" | mc alias set store "$ENDPOINT" --api S3v4 >/dev/null
    waited=0
    until reason=$(mc ls store 2>&1); do
        [ "$waited" -lt "$PATIENCE" ] || fail "$ENDPOINT did not let us in within $PATIENCE s. $reason"
        [ $((waited % 30)) -ne 0 ] || say "waiting for $ENDPOINT"
        waited=$((waited + 2))
        sleep 2
    done
    say "connected to $ENDPOINT"
}

bucket() {
    reason=$(mc mb --ignore-existing "store/$1" 2>&1) || fail "cannot make bucket $1. $reason"
    if [ "${2:-}" = versioned ]; then
        reason=$(mc version enable "store/$1" 2>&1) || fail "cannot version bucket $1. $reason"
    fi
    say "bucket $1${2:+, $2}"
}

# replaces the rules that a bucket has
retention() {
    reason=$(mc ilm rule import "store/$1" <"/setup/lifecycle-$1.json" 2>&1) || fail "cannot set the retention of bucket $1. $reason"
    say "retention of bucket $1"
}

no_retention() {
    # there may be none to remove, which is an error to mc
    mc ilm rule rm --all --force "store/$1" >/dev/null 2>&1 || true
    reason=$(mc ilm rule ls "store/$1" 2>&1) && fail "cannot remove the retention of bucket $1. $reason"
    say "no retention of bucket $1"
}

consumer() {
    policy="consumer-$1"
    access_key=$(cat "/keys/$1/AWS_ACCESS_KEY_ID")
    secret_key=$(cat "/keys/$1/AWS_SECRET_ACCESS_KEY")
    reason=$(mc admin policy create store "$policy" "/setup/policy-$1.json" 2>&1) || fail "cannot make policy $policy. $reason"
    # of a user that exists this changes the key
    reason=$(printf '%s\n%s\n' "$access_key" "$secret_key" | mc admin user add store 2>&1) ||
        fail "cannot make a user for consumer $1. $reason"
    if ! reason=$(mc admin policy attach store "$policy" --user "$access_key" 2>&1); then
        case $reason in
            *"already in effect"*) ;;
            *) fail "cannot attach policy $policy. $reason" ;;
        esac
    fi
    say "consumer $1"
}

connect
# shellcheck source=/dev/null
. /setup/plan.sh
say "done"
