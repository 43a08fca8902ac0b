# A large source tree unpacked on the mount is the same, byte for byte, after the server's restart.
registry=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -mindepth 1 -maxdepth 1 -type d | head -n 1)
mapfile -t crates < <(ls "$registry" | head -n 40)
tar -cf "$SCRATCH/tree.tar" --exclude=target --exclude=.git -C "$ROOT" . -C "$registry" "${crates[@]}"
mkdir "$SCRATCH/tree"
tar -xf "$SCRATCH/tree.tar" -C "$SCRATCH/tree"
tar -xf "$SCRATCH/tree.tar"
(cd "$SCRATCH/tree" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$SCRATCH/sums"
listing() { find . -printf '%p %y %m %U %G %l %T@ ' \( -type f -printf '%s' -o -true \) -printf '\n' | sed 's/0* $//; s/\(\.[0-9]*[1-9]\)0*\b/\1/' | sort; }
(cd "$SCRATCH/tree" && listing) >"$SCRATCH/list"
echo "$(wc -l <"$SCRATCH/sums") files"
cd /
"$SERVER" restart
cd "$WORK"
sha256sum --quiet -c "$SCRATCH/sums"
listing | diff "$SCRATCH/list" -
