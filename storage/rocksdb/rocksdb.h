/* SPDX-License-Identifier: Apache-2.0 */
/* The default engine: batches and rows in one embedded RocksDB. */
#ifndef STORAGE_ROCKSDB_ROCKSDB_H
#define STORAGE_ROCKSDB_ROCKSDB_H

#include "storage/storage.h"

extern const struct storage_ops rocksdb_storage_ops;

#endif
