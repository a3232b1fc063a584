# SPDX-License-Identifier: Apache-2.0
# Included by the folder's CMakeLists.txt: the measurement of the RocksDB engine alone.
add_executable(storage_bench ${CMAKE_CURRENT_LIST_DIR}/storage_bench.c)
target_link_libraries(storage_bench PRIVATE polylog_flags storage_rocksdb net_uv)
