# git init, add, commit, status, clone and gc work, and its own check finds nothing.
export HOME=$SCRATCH GIT_CONFIG_NOSYSTEM=1
git config --global user.email tester@example.org
git config --global user.name Tester
git config --global init.defaultBranch main
git config --global core.fsync all
git init -q project
cd project
cp -r "$ROOT/engine" "$ROOT/shards" .
git add -A
git commit -qm first
[ -z "$(git status --porcelain)" ]
git clone -q . ../clone
cd ../clone
echo more >>engine/types/Cargo.toml
git mv shards/wire shards/moved
git commit -qam second
git gc -q --aggressive --prune=now
git fsck --strict
[ -z "$(git status --porcelain)" ]
git checkout -q HEAD~1
diff -r engine "$WORK/project/engine"
diff -r shards "$WORK/project/shards"
