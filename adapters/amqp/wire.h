/* SPDX-License-Identifier: Apache-2.0 */
/* Codes of AMQP 1.0 on the wire, with the sections of the standard that give them: constructors of
 * types, and descriptors of what is made of these. */
#ifndef ADAPTERS_AMQP_WIRE_H
#define ADAPTERS_AMQP_WIRE_H

enum { AMQP_FRAME_HEADER = 8 }; /* bytes (2.3.1) */

/* Types (1.6) by the code of their widest encoding, as in core/log/types.h. */
enum amqp_type {
    AMQP_DESCRIBED = 0x00,
    AMQP_NULL = 0x40,
    AMQP_UBYTE = 0x50,
    AMQP_BYTE = 0x51,
    AMQP_BOOLEAN = 0x56,
    AMQP_USHORT = 0x60,
    AMQP_SHORT = 0x61,
    AMQP_UINT = 0x70,
    AMQP_INT = 0x71,
    AMQP_FLOAT = 0x72,
    AMQP_CHAR = 0x73,
    AMQP_DECIMAL32 = 0x74,
    AMQP_ULONG = 0x80,
    AMQP_LONG = 0x81,
    AMQP_DOUBLE = 0x82,
    AMQP_TIMESTAMP = 0x83,
    AMQP_DECIMAL64 = 0x84,
    AMQP_DECIMAL128 = 0x94,
    AMQP_UUID = 0x98,
    AMQP_BINARY = 0xb0,
    AMQP_STRING = 0xb1,
    AMQP_SYMBOL = 0xb3,
    AMQP_LIST = 0xd0,
    AMQP_MAP = 0xd1,
    AMQP_ARRAY = 0xf0,
};

/* The other encodings of some (1.6): of values that need no bytes, and of short ones. */
enum amqp_short {
    AMQP_TRUE = 0x41,
    AMQP_FALSE = 0x42,
    AMQP_UINT_0 = 0x43,
    AMQP_ULONG_0 = 0x44,
    AMQP_LIST_0 = 0x45,
    AMQP_UINT_SMALL = 0x52,
    AMQP_ULONG_SMALL = 0x53,
    AMQP_INT_SMALL = 0x54,
    AMQP_LONG_SMALL = 0x55,
    AMQP_BINARY_SMALL = 0xa0,
    AMQP_STRING_SMALL = 0xa1,
    AMQP_SYMBOL_SMALL = 0xa3,
    AMQP_LIST_SMALL = 0xc0,
    AMQP_MAP_SMALL = 0xc1,
    AMQP_ARRAY_SMALL = 0xe0
};

/* Bodies of frames (2.7.1 to 2.7.9; 5.3.3.2, 5.3.3.4). */
enum amqp_performative {
    AMQP_OPEN = 0x10,
    AMQP_BEGIN = 0x11,
    AMQP_ATTACH = 0x12,
    AMQP_FLOW = 0x13,
    AMQP_TRANSFER = 0x14,
    AMQP_DISPOSITION = 0x15,
    AMQP_DETACH = 0x16,
    AMQP_END = 0x17,
    AMQP_CLOSE = 0x18,
    AMQP_SASL_INIT = 0x41,
    AMQP_SASL_RESPONSE = 0x43
};

/* Sections of a message (3.2.1 to 3.2.9). */
enum amqp_section {
    AMQP_SECTION_HEADER = 0x70,
    AMQP_SECTION_DELIVERY_ANNOTATIONS = 0x71,
    AMQP_SECTION_ANNOTATIONS = 0x72,
    AMQP_SECTION_PROPERTIES = 0x73,
    AMQP_SECTION_APPLICATION = 0x74,
    AMQP_SECTION_DATA = 0x75,
    AMQP_SECTION_SEQUENCE = 0x76,
    AMQP_SECTION_VALUE = 0x77,
    AMQP_SECTION_FOOTER = 0x78,
};

/* Outcomes (3.4.2 to 3.4.5). */
enum amqp_outcome {
    AMQP_OUTCOME_NONE = 0, /* nothing is said, or what is no outcome */
    AMQP_OUTCOME_ACCEPTED = 0x24,
    AMQP_OUTCOME_REJECTED = 0x25,
    AMQP_OUTCOME_RELEASED = 0x26,
    AMQP_OUTCOME_MODIFIED = 0x27
};

/* What else is described. */
enum amqp_described {
    AMQP_ERROR = 0x1d,    /* 2.8.14 */
    AMQP_RECEIVED = 0x23, /* a state that is no outcome: 3.4.1 */
    AMQP_SOURCE = 0x28,   /* 3.5.3 */
    /* Lifetimes of dynamic nodes: 3.5.10 to 3.5.13 */
    AMQP_DELETE_ON_CLOSE = 0x2b,
    AMQP_DELETE_ON_NO_LINKS = 0x2c,
    AMQP_DELETE_ON_NO_MESSAGES = 0x2d,
    AMQP_DELETE_ON_NO_LINKS_OR_MESSAGES = 0x2e,
    /* Transactions: 4.5.2, 4.5.3, and states: 4.5.5, 4.5.6 */
    AMQP_DECLARE = 0x31,
    AMQP_DISCHARGE = 0x32,
    AMQP_DECLARED = 0x33,
    AMQP_TRANSACTIONAL = 0x34
};

#endif
