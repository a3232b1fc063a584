# SPDX-License-Identifier: Apache-2.0
# How every folder of the house is built: one static library each, with the same warnings.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

add_library(polylog_flags INTERFACE)
target_include_directories(polylog_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(polylog_flags INTERFACE _GNU_SOURCE POLYLOG_VERSION="${PROJECT_VERSION}")
target_compile_options(polylog_flags INTERFACE
  -fno-strict-aliasing -fno-omit-frame-pointer
  -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2
  -Wcast-qual -Wwrite-strings -Wundef)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64")
  target_compile_options(polylog_flags INTERFACE -msse4.2)
endif()
target_link_libraries(polylog_flags INTERFACE Threads::Threads)
if(NOT POLYLOG_SANITIZE STREQUAL "")
  # Without full optimisation gcc cannot see how far numbers go.
  target_compile_options(polylog_flags INTERFACE -Wno-format-truncation)
endif()
if(POLYLOG_SANITIZE STREQUAL "address")
  target_compile_options(polylog_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all)
  target_link_options(polylog_flags INTERFACE -fsanitize=address,undefined)
elseif(POLYLOG_SANITIZE STREQUAL "thread")
  target_compile_options(polylog_flags INTERFACE -fsanitize=thread)
  target_link_options(polylog_flags INTERFACE -fsanitize=thread)
endif()

# The product adds the conversion warnings; tests do without them, and so do sanitizer builds, where
# what gcc inserts makes it see conversions that nobody wrote.
if(POLYLOG_SANITIZE STREQUAL "")
  set(POLYLOG_STRICT -Wconversion -Wsign-conversion)
endif()

# polylog_library(NAME LINK libs...): every .c file of the current folder.
function(polylog_library name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  add_library(${name} STATIC ${sources})
  target_compile_options(${name} PRIVATE ${POLYLOG_STRICT})
  target_link_libraries(${name} PUBLIC polylog_flags ${ARG_LINK})
endfunction()

# polylog_test(NAME SOURCE LINK libs...): a cmocka program that ctest runs.
function(polylog_test name source)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE polylog_flags PkgConfig::cmocka ${ARG_LINK})
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT 120 ENVIRONMENT
    "TSAN_OPTIONS=ignore_noninstrumented_modules=1:second_deadlock_stack=1;ASAN_OPTIONS=detect_leaks=1")
endfunction()

pkg_check_modules(uv REQUIRED IMPORTED_TARGET libuv)
pkg_check_modules(openssl REQUIRED IMPORTED_TARGET openssl)
pkg_check_modules(rocksdb REQUIRED IMPORTED_TARGET rocksdb)
pkg_check_modules(jansson REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(zlib REQUIRED IMPORTED_TARGET zlib)
pkg_check_modules(lz4 REQUIRED IMPORTED_TARGET liblz4)
pkg_check_modules(zstd REQUIRED IMPORTED_TARGET libzstd)
find_library(SNAPPY_LIBRARY snappy REQUIRED)
pkg_check_modules(argon2 REQUIRED IMPORTED_TARGET libargon2)
pkg_check_modules(confuse REQUIRED IMPORTED_TARGET libconfuse)
# Debian's .pc names an include directory that does not exist.
find_library(PROTON_LIBRARY qpid-proton REQUIRED)
pkg_check_modules(curl REQUIRED IMPORTED_TARGET libcurl)
# Only the tests need these; without them the gateway builds all the same.
pkg_check_modules(cmocka IMPORTED_TARGET cmocka)
pkg_check_modules(mosquitto IMPORTED_TARGET libmosquitto)
find_library(PAHO_C paho-mqtt3c)
