/* SPDX-License-Identifier: Apache-2.0 */
/* A configuration file: whatever it says, it is taken or refused with a reason, and what is taken
 * lies within its limits. */
#include "core/base/check.h"
#include "core/base/limits.h"
#include "gateway/config.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config config;
    struct err err = {0};
    config_init(&config);
    enum status status = config_read_text(&config, span_of(data, size), "fuzz", &err);
    CHECK((status == STATUS_OK) == (err.text[0] == '\0'));
    if (status == STATUS_OK && config_finish(&config, &err) == STATUS_OK)
        CHECK(config.mqtt_tls_port != PORT_UNSET);
    CHECK(config.workers >= 0 && config.workers <= LIMIT_WORKERS);
    CHECK(config.mqtt_port >= PORT_OFF && config.mqtt_port <= UINT16_MAX);
    CHECK(config.data != NULL && *config.data != '\0');
    config_deinit(&config);
    return 0;
}
