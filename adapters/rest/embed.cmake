# SPDX-License-Identifier: Apache-2.0
# cmake -DFROM=file -DTO=file.c -DNAME=name -P embed.cmake: a file's bytes as name_text and name_size.
file(READ ${FROM} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(................................................................................)" "\\1\n"
       bytes "${bytes}")
file(WRITE ${TO} "#include \"adapters/rest/${NAME}.h\"\n\nconst uint8_t ${NAME}_text[] = {\n${bytes}};\n\
const size_t ${NAME}_size = sizeof ${NAME}_text;\n")
