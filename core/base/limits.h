/* SPDX-License-Identifier: Apache-2.0 */
/* What peers can grow has a limit, here or beside its code; what operators may set, a default. */
#ifndef CORE_BASE_LIMITS_H
#define CORE_BASE_LIMITS_H

#define LIMIT_WORKERS          64
#define LIMIT_RECORD_BYTES     (10u * 1024 * 1024) /* one record, headers included */
#define LIMIT_BATCH_BYTES      (256u * 1024) /* a batch we build, unless one record is larger */
#define LIMIT_BATCH_RECORDS    4096u
#define LIMIT_HEADERS          256u /* headers of one record */
#define LIMIT_TOPIC_BYTES      65535u
#define LIMIT_TOPIC_LEVELS     128u
#define LIMIT_CLIENT_ID_BYTES  1024u
#define LIMIT_SUBSCRIPTIONS    1000u                     /* per client */
#define LIMIT_FILTERS_PER_CALL 1000u                     /* in one SUBSCRIBE */
#define LIMIT_SHARES           100u                      /* shared subscriptions of one client */
#define LIMIT_NOTE_BYTES       (LIMIT_TOPIC_BYTES + 512) /* key and value that go with a session */
#define LIMIT_LEASE_MS         43200000u                 /* 12 hours */
#define LIMIT_LEASE_MIN_MS     1000u                     /* of a queue's own */
#define LIMIT_SHARE_MEMBERS    10000u                    /* of one shared subscription */
#define LIMIT_SHARE_NAME       256u                      /* bytes */
#define LIMIT_PUBLISH_PENDING  65535u                    /* unanswered publishes per client */
#define LIMIT_SHARE_FLIGHTS    200000u /* held by members of a durable share, by no session */
#define LIMIT_FILTER_SHAPES                                                                        \
    64u /* index rows of one record; of one user half; see core/broker/filter_index.h */
#define LIMIT_CLIENT_IN_BYTES  (16u * 1024 * 1024)  /* published, not yet answered, per client */
#define LIMIT_WORKER_IN_BYTES  (128u * 1024 * 1024) /* the same for all clients of one worker */
#define LIMIT_CLIENT_OUT_BYTES (1024u * 1024)       /* queued for one consumer at most */
#define LIMIT_CONSUMER_LEASES  65536u               /* unsettled, of one consumer of a group */
#define LIMIT_CLIENT_LEASES    262144u /* of all consumers of a client, asked for or not settled */
#define LIMIT_CONSUMER_PIECES  1024u   /* of its settlements under way: then it takes no more */
#define LIMIT_SENT_BYTES       (32u * 1024 * 1024) /* buffers of what one client has or had unsettled */
#define LIMIT_SENDER_UNSETTLED 16384u              /* of one client: answered, not settled by it */
#define LIMIT_CLIENT_CREDIT    1000u /* deliveries in flight when the client names none */
#define LIMIT_NOTICE_BYTES     (64u * 1024 * 1024) /* committed, on the way to one worker's clients */
#define LIMIT_TAIL_BYTES       (64u * 1024 * 1024) /* tail cache of one worker, all its partitions */
#define LIMIT_PAGE_BYTES       (16u * 1024 * 1024) /* read from storage last, of one worker */
#define LIMIT_READ_BYTES       (1024u * 1024)      /* one storage read */
#define LIMIT_QUEUES           10000u
#define LIMIT_TEMPORARY        4000u /* queues that clients have made for themselves; half of one user */
#define LIMIT_CLIENT_TEMPORARY 256u /* of these of one client */
#define LIMIT_QUEUE_NAME       64u
#define LIMIT_GROUP_NAME       64u
#define LIMIT_GROUPS_PER_QUEUE 1000u
#define LIMIT_PARTITIONS       256u /* per queue */
#define LIMIT_ROUTES           10000u
#define LIMIT_PRINCIPALS       100000u
#define LIMIT_GRANTS           256u /* per principal */
#define LIMIT_ACCESS_KEYS      8u   /* likewise */
#define LIMIT_USER_NAME        128u
#define LIMIT_PASSWORD         1024u
#define LIMIT_IN_FLIGHT        100000u    /* leases of one group and partition */
#define LIMIT_WINDOW           (1u << 20) /* offsets a group's window may span */
#define LIMIT_ASIDE            (1u << 17) /* offsets left behind a window, one by one */
#define LIMIT_RELEASED         (1u << 17) /* of one group and partition: known as given back */
#define LIMIT_WORKER_RELEASED  (1u << 21) /* the same of all groups of one worker: 64 to 128 MB */
#define LIMIT_WORKER_NOTES     (32u * 1024 * 1024)   /* bytes, of all its groups: left on records */
#define LIMIT_CONSUMER_IDLE_MS INT64_C(315360000000) /* of a broadcast group: ten years */
#define LIMIT_SELECTOR_BYTES   4096u
#define LIMIT_SELECTOR_DEPTH   64u
#define LIMIT_SELECTOR_NAMES   64u
#define LIMIT_SELECTOR_STEPS                                                                       \
    2048u /* operations of one compiled selector, and of one evaluation                            \
           */
#define LIMIT_SELECTOR_COMPARES (1u << 20) /* of text in one evaluation: bytes in LIKE, else 32 */
#define LIMIT_SELECT_STEPS                                                                         \
    (1u << 22) /* of selectors of topics and followers, in a turn of a worker: 5 ms; half of one   \
                  user */
#define LIMIT_DELAY_MS          604800000u /* 7 days */
#define LIMIT_DELAYED           10000000u  /* records that wait for their time, of one partition */
#define LIMIT_DEDUP_KEYS        (1u << 21) /* in the windows of one worker: about 128 MB */
#define LIMIT_DEDUP_MS          604800000u /* the longest window: 7 days */
#define LIMIT_DEDUP_ID          256u       /* bytes of an id, or of a producer's name */
#define LIMIT_PRODUCERS         100000u    /* with sequences, in the partitions of one worker */
#define LIMIT_TRANSACTIONS      64u        /* open ones of one client */
#define LIMIT_TRANSACTION_PARTS 10000u     /* messages and settlements of one */
#define LIMIT_UNIT_MESSAGES     10000u     /* published as one, without a transaction */
#define LIMIT_SESSION_UNITS     8u /* commits that settle of one kept session: one, and who waits */
#define LIMIT_TRANSACTION_MS    300000u /* from its beginning to its commit */
#define LIMIT_LOOK_AHEAD        65536u  /* skipped records of one fifo group and partition */
#define LIMIT_RESUME_LINKS      10000u  /* AMQP links that senders may resume; half of one user */
#define LIMIT_RESUME_TAGS       200000u /* deliveries remembered for them; half of one user */
#define LIMIT_RESUME_LINK_TAGS  2000u   /* of these of one link */
#define LIMIT_RESUME_NAME       2048u   /* bytes of container id and link name */
#define LIMIT_RESUME_MS         600000u /* from the end of such a link on */
#define LIMIT_HTTP_BODY         (12u * 1024 * 1024)
#define LIMIT_FOLLOWERS         100u   /* per client */
#define LIMIT_FOLLOW_PARTITIONS 1024u  /* of one follower */
#define LIMIT_FOLLOW_UNSETTLED  16384u /* shown to all followers of a client, not settled yet */
#define LIMIT_WEBSOCKET_MESSAGE (16u * 1024 * 1024) /* one message or frame, inflated */
#define LIMIT_WEBSOCKET_IDLE_MS 30000u              /* of silence, then a ping; twice: the end */
#define LIMIT_CONNECT_MS        10000u /* from accept to a complete CONNECT or request; its answer */
#define LIMIT_TOKEN_S           86400u /* how long a token may hold */
#define LIMIT_REFUSALS          1000u  /* connections per second that are told: too many */

/* What consumers of one group of a queue ask for, and what is remembered of them. */
#define LIMIT_GROUP_CHOICES    256u  /* different selectors at a time */
#define LIMIT_GROUP_BARS       16u   /* who has given back as not for itself, and is there */
#define LIMIT_GROUP_BARRED     1000u /* records of one of them */
#define LIMIT_GROUP_NOTES      1000u /* records of a group and partition with a note */
#define LIMIT_GROUP_NOTE_BYTES 1024u /* of one note */
#define LIMIT_TAKE_RECORDS     1000u /* in one take */

/* One HTTP request; one call of REST, or one frame of the WebSocket's. */
#define LIMIT_HTTP_HEAD          16384u
#define LIMIT_HTTP_HEADERS       100u
#define LIMIT_CALL_RECEIPTS      1000u /* that are settled */
#define LIMIT_CALL_RECORDS       1000u /* that are looked at, or published */
#define LIMIT_WEBSOCKET_SUBS     100u  /* subscriptions of one connection */
#define LIMIT_WEBSOCKET_REQUESTS 1000u /* of it, not answered yet */
#define LIMIT_WEBSOCKET_FETCHES  4u    /* of it, under way: then frames wait */

/* One connection of MQTT. */
#define LIMIT_MQTT_SUBSCRIBES 64u /* packets that are not answered yet */

/* One connection of AMQP, or one link. */
#define LIMIT_AMQP_CHANNEL       255u /* the highest */
#define LIMIT_AMQP_LINKS         1024u
#define LIMIT_AMQP_HANDLES       2048u /* with those of what has ended, until the peer has, too */
#define LIMIT_AMQP_CREDIT        1000u /* under way on one link to a target */
#define LIMIT_AMQP_REQUESTS      100u  /* of the management node, under way; answers of one link */
#define LIMIT_AMQP_ATTACH_VALUES 512u  /* in an attach but for what is unsettled */
#define LIMIT_AMQP_STATE_VALUES  256u  /* in the state of a delivery */
#define LIMIT_AMQP_TAG_BYTES     256u  /* 32 by the book */

#endif
