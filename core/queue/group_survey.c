/* SPDX-License-Identifier: Apache-2.0 */
/* What of a stretch a group has done, for whoever reads along. */
#include "core/queue/group_impl.h"

#include "core/base/check.h"

void survey_apply(struct group *group, struct group_survey *survey)
{
    const struct part *part = group_part(group, survey->partition);
    uint64_t until_ms;
    memset(survey->done, 0, sizeof survey->done);
    if (part == NULL) {
        request_complete(&survey->request, STATUS_NOT_FOUND);
        return;
    }
    survey->labels.filter.count = 0;
    if (!part->dead)
        label_choose(&survey->labels, &part->group->labels.filter);
    if (survey->from < window_end(part->window))
        survey->from = window_next_undone(part->window, survey->from);
    for (uint32_t i = 0; i < SURVEY_OFFSETS && survey->from + i < window_end(part->window); i++)
        if (window_look_at(part->window, survey->from + i, &until_ms) == WINDOW_IS_DONE)
            survey->done[i / 64] |= UINT64_C(1) << i % 64;
    request_complete(&survey->request, STATUS_OK);
}

void group_survey(struct group *group, struct group_survey *survey)
{
    CHECK(loop_is_home(group->loop));
    CHECK(group->state != GROUP_CLOSING);
    if (group->broken != STATUS_OK)
        request_complete(&survey->request, group->broken);
    else if (group->state == GROUP_OPENING)
        list_push(&group->early_surveys, &survey->link);
    else
        survey_apply(group, survey);
}
