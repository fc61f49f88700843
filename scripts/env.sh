# Sourced by the other scripts: what cargo needs to link RocksDB from the cache instead of compiling it.
#
# A folder that the caller chose (ROCKSDB_LIB_DIR) is kept.
scripts/setup.sh build
if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
  ROCKSDB_LIB_DIR=$(scripts/rocksdb.sh)
  export ROCKSDB_LIB_DIR
fi
export ROCKSDB_STATIC=1
