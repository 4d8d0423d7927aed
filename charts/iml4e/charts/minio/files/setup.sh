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
administrator() {
    printf '%s\n%s\n' "$ROOT_USER" "$1" | mc alias set store "$ENDPOINT" --api S3v4 >/dev/null
}

# While the administrator's password rotates, the server may still have the other one. A restart makes the server read its Secret
# anew; mc's exit code does not matter, the next look tells.
restart_with_former() {
    administrator "$SECOND_ROOT_PASSWORD"
    if mc ls store >/dev/null 2>&1; then
        say "the server restarts: its administrator has a new password"
        mc --json admin service restart store >/dev/null 2>&1 || true
    fi
    administrator "$ROOT_PASSWORD"
}

connect() {
    administrator "$ROOT_PASSWORD"
    waited=0
    until reason=$(mc ls store 2>&1); do
        [ "$waited" -lt "$PATIENCE" ] || fail "$ENDPOINT did not let us in within $PATIENCE s. $reason"
        [ $((waited % 30)) -ne 0 ] || say "waiting for $ENDPOINT"
        [ -z "${SECOND_ROOT_PASSWORD:-}" ] || restart_with_former
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

# access key, secret key, consumer
user() {
    # of a user that exists this changes the key
    reason=$(printf '%s\n%s\n' "$1" "$2" | mc admin user add store 2>&1) || fail "cannot make a user for consumer $3. $reason"
    if ! reason=$(mc admin policy attach store "consumer-$3" --user "$1" 2>&1); then
        case $reason in
            *"already in effect"*) ;;
            *) fail "cannot attach policy consumer-$3. $reason" ;;
        esac
    fi
}

# A consumer's Secret has one key, and two while the key rotates: exactly those are valid afterwards.
consumer() {
    reason=$(mc admin policy create store "consumer-$1" "/setup/policy-$1.json" 2>&1) || fail "cannot make policy consumer-$1. $reason"
    access_key=$(cat "/keys/$1/AWS_ACCESS_KEY_ID")
    user "$access_key" "$(cat "/keys/$1/AWS_SECRET_ACCESS_KEY")" "$1"
    case $access_key in
        *.2) other=${access_key%.2} ;;
        *) other=$access_key.2 ;;
    esac
    if [ -f "/keys/$1/second.AWS_SECRET_ACCESS_KEY" ]; then
        user "$(cat "/keys/$1/second.AWS_ACCESS_KEY_ID")" "$(cat "/keys/$1/second.AWS_SECRET_ACCESS_KEY")" "$1"
        say "consumer $1, with two keys"
    else
        if mc admin user info store "$other" >/dev/null 2>&1; then
            reason=$(mc admin user rm store "$other" 2>&1) || fail "cannot remove the former key of consumer $1. $reason"
            say "the former key of consumer $1 is removed"
        fi
        say "consumer $1"
    fi
}

connect
# shellcheck source=/dev/null
. /setup/plan.sh
say "done"
