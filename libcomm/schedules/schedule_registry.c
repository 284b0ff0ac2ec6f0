/* SPDX-License-Identifier: Apache-2.0 */
/* Every schedule of the build, in the order in which slots are offered to them: the list in libcomm/Makefile.inc makes
   schedules.def. */
#include <string.h>

#include "alltoall.h"

#define TACIT_MODULE(name) extern const tacit_schedule_t tacit__schedule_##name;
#include "schedules.def"
#undef TACIT_MODULE

static const tacit_schedule_t *const schedules[] = {
#define TACIT_MODULE(name) &tacit__schedule_##name,
#include "schedules.def"
#undef TACIT_MODULE
};

/* Not offered to slots. */
static const tacit_schedule_t *const all_to_alls[] = {&tacit__schedule_alltoall, &tacit__schedule_two_level_alltoall};

const tacit_schedule_t *tacit__schedule_at(size_t index)
{
    return index < sizeof schedules / sizeof *schedules ? schedules[index] : NULL;
}

const tacit_schedule_t *tacit__schedule_named(const char *name)
{
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
        if (strcmp(schedules[i]->name, name) == 0) {
            return schedules[i];
        }
    }
    for (size_t i = 0; i < sizeof all_to_alls / sizeof *all_to_alls; i++) {
        if (strcmp(all_to_alls[i]->name, name) == 0) {
            return all_to_alls[i];
        }
    }
    return NULL;
}

bool tacit__schedule_carries(const tacit_schedule_t *schedule, const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return schedule->device == codec->tensor.device && schedule->carries(comm, codec);
}

/* The one that is asked for if it carries the codec, else the first that does and should; with or without levels, or either. */
static const tacit_schedule_t *find(const tacit_comm_t *comm, const tacit_codec_t *codec, bool with, bool without)
{
    const char             *plan = comm->environment.plan;
    const tacit_schedule_t *asked = plan != NULL ? tacit__schedule_named(plan) : NULL;

    if (asked != NULL && (asked->levels ? with : without) && tacit__schedule_carries(asked, comm, codec)) {
        return asked;
    }
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
        if ((schedules[i]->levels ? with : without) && tacit__schedule_carries(schedules[i], comm, codec) &&
            (schedules[i]->pays == NULL || schedules[i]->pays(comm, codec))) {
            return tacit__cost_choose(comm, codec, schedules[i]);
        }
    }
    return NULL;
}

const tacit_schedule_t *tacit__schedule_of(const tacit_comm_t *comm, const tacit_codec_t *codec)
{
    return find(comm, codec, true, true);
}

const tacit_schedule_t *tacit__schedule_of_first(const tacit_comm_t *comm, const tacit_codec_t *codec,
                                                 const tacit_schedule_t *next)
{
    return find(comm, codec, next->levels, !next->levels);
}
