# The smallest stores, and stores that metadata alone fills: several writers at once, ENOSPC and nothing else, the
# space comes back, and nothing is leaked.
export STAGE=$STAGE/tiny STORE_SIZE=256MiB
mkdir -p "$STAGE"
trap '"$SERVER" abandon' EXIT
"$SERVER" start
python3 "$ROOT/tests/posix/fill.py" "$STAGE/mnt" mixed,small,large "${ROUNDS:-3}" 4
python3 "$ROOT/tests/posix/fill.py" "$STAGE/mnt" tiny 1 8
"$SERVER" restart
[ -z "$(ls -A "$STAGE/mnt")" ]
"$SERVER" stop
report=$("$CFS" fsck "$STAGE/store")
echo "$report"
if grep -q '^leak' <<<"$report"; then exit 1; fi
