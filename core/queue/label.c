/* SPDX-License-Identifier: Apache-2.0 */
/* Matching labels: the batch by hashes, then the record by bytes. */
#include "core/queue/label.h"

bool label_is_valid(struct span label)
{
    if (label.size == 0 || label.size > LABEL_SIZE_MAX)
        return false;
    for (size_t i = 0; i < label.size; i++) {
        uint8_t byte = label.data[i];
        bool letter = (byte | 0x20) >= 'a' && (byte | 0x20) <= 'z';
        if (!letter && !(byte >= '0' && byte <= '9') && byte != '-' && byte != '_' && byte != '.')
            return false;
    }
    return true;
}

bool label_choose(struct label_choice *choice, const struct label_filter *wanted)
{
    if (wanted->count > LABELS_MAX)
        return false;
    for (uint32_t i = 0; i < wanted->count; i++)
        if (!label_is_valid(wanted->labels[i]))
            return false;
    for (uint32_t i = 0; i < wanted->count; i++) {
        size_t size = wanted->labels[i].size;
        memcpy(choice->texts[i], wanted->labels[i].data, size);
        choice->filter.labels[i] = span_of(choice->texts[i], size);
    }
    choice->filter.count = wanted->count;
    choice->filter.all = wanted->all;
    return true;
}

/* One bit per label of the filter. */
static uint32_t wanted_bits(const struct label_filter *filter)
{
    return (1u << filter->count) - 1;
}

static bool is_enough(const struct label_filter *filter, uint32_t found)
{
    return filter->all ? found == wanted_bits(filter) : found != 0;
}

/* The bits of those that a comma-separated text holds. */
static uint32_t find_in_text(const struct label_filter *filter, struct span text)
{
    uint32_t found = 0;
    struct span label;
    while (found != wanted_bits(filter) && label_next(&text, &label))
        for (uint32_t i = 0; i < filter->count; i++)
            if (span_equal(label, filter->labels[i]))
                found |= 1u << i;
    return found;
}

bool label_matches(const struct label_filter *filter, const struct record *record)
{
    if (filter->count == 0)
        return true;
    struct reader at = reader_of(record->headers);
    struct header header;
    uint32_t found = 0;
    while (record_next_header(&at, &header)) {
        if (header.name.size != sizeof HEADER_LABELS - 1 ||
            memcmp(header.name.data, HEADER_LABELS, sizeof HEADER_LABELS - 1) != 0)
            continue;
        if (header.value.data == NULL) /* it has none: what follows is the publisher's own */
            return false;
        found |= find_in_text(filter, header.value);
        if (is_enough(filter, found))
            return true;
    }
    return false;
}

bool label_footer_may_match(const struct label_filter *filter, const struct batch *batch)
{
    if (filter->count == 0)
        return true;
    if (batch->unlabelled)
        return false;
    if (batch->footer.size == 0)
        return true;
    uint32_t found = 0;
    for (uint32_t i = 0; i < filter->count; i++)
        if (footer_may_have(batch->footer, label_hash(filter->labels[i])))
            found |= 1u << i;
    return is_enough(filter, found);
}

static bool holds_all_of(const struct label_filter *filter, const struct label_filter *other)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < other->count; i++)
        for (uint32_t j = 0; j < filter->count; j++)
            if (span_equal(other->labels[i], filter->labels[j]))
                found |= 1u << i;
    return found == wanted_bits(other);
}

bool label_filter_equal(const struct label_filter *a, const struct label_filter *b)
{
    if (a->count == 0 || b->count == 0)
        return a->count == b->count;
    return (a->all == b->all || (a->count == 1 && b->count == 1)) && holds_all_of(a, b) &&
           holds_all_of(b, a);
}
