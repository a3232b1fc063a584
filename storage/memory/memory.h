/* SPDX-License-Identifier: Apache-2.0 */
/* The engine that keeps everything in memory: the oracle of the contract suite, and a store for
 * tests. */
#ifndef STORAGE_MEMORY_MEMORY_H
#define STORAGE_MEMORY_MEMORY_H

#include "storage/storage.h"

extern const struct storage_ops memory_storage_ops;

#endif
