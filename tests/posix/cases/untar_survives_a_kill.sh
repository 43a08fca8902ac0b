# What tar unpacked and fsync reported is there after kill -9.
tar -C "$ROOT" --exclude=target --exclude=.git -cf "$SCRATCH/tree.tar" .
tar -xf "$SCRATCH/tree.tar"
find . -type f -print0 | xargs -0 sync
find . -type f -print0 | sort -z | xargs -0 sha256sum >"$SCRATCH/sums"
cd /
"$SERVER" kill
"$SERVER" start
cd "$WORK"
sha256sum --quiet -c "$SCRATCH/sums"
[ "$(find . -type f | wc -l)" = "$(wc -l <"$SCRATCH/sums")" ]
