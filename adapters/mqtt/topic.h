/* SPDX-License-Identifier: Apache-2.0 */
/* What topic names, filters and shares of MQTT look like (4.7, 4.8.2). Pure. */
#ifndef ADAPTERS_MQTT_TOPIC_H
#define ADAPTERS_MQTT_TOPIC_H

#include "core/base/span.h"

/* Topic names and filters (4.7): not empty, valid UTF-8 without U+0000, at most
 * LIMIT_TOPIC_LEVELS levels; a filter may be $share/<name>/<filter>. */
bool mqtt_topic_valid(struct span topic);
bool mqtt_filter_valid(struct span filter);

/* True for a valid $share/<name>/<filter>, and its two parts. */
bool mqtt_share_split(struct span filter, struct span *name, struct span *rest);

/* The same of what is known to be valid UTF-8: the form alone. */
bool mqtt_topic_is_formed(struct span topic);
bool mqtt_any_filter_is_formed(struct span filter); /* a share, too */
bool mqtt_is_share(struct span filter);             /* it begins like one */

#endif
