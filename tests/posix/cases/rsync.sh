# rsync -a brings a tree over; a dry run by checksum, times and modes finds no difference; changes follow.
rsync -aHAX "$ROOT/engine" "$ROOT/shards" .
for tree in engine shards; do
    [ -z "$(rsync -naciHAX --delete "$ROOT/$tree" .)" ]
done
cp -a engine "$SCRATCH/engine"
find "$SCRATCH/engine" -name '*.toml' -exec sh -c 'echo "# more" >>"$1"' _ {} \;
rm -r "$SCRATCH/engine/types"
rsync -a --delete "$SCRATCH/engine/" engine/
[ -z "$(rsync -naci --delete "$SCRATCH/engine/" engine/)" ]
[ ! -e engine/types ]
rsync -a --inplace --no-whole-file --checksum engine/ back/
diff -r engine back
