# Sourced by the scripts that compare with the real etcd: Go on the path, and the peers built.
PATH=$(dirname "$(scripts/setup.sh oracle)"):$PATH
export PATH
scripts/peers.sh >/dev/null
