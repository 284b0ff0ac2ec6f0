/* SPDX-License-Identifier: Apache-2.0 */
/* Slots on a GPU that are reduced together: their bundle, and memory of the GPU for its messages. Kept while each of the slots
   was last reduced with just the others. */
#ifndef TACIT_FUSED_H
#define TACIT_FUSED_H

#include "bundle.h"
#include "comm.h"

struct tacit_fused {
    tacit_bundle_t *bundle;
    tacit_slot_t  **slots;
    size_t          count; /* of them */
    const void    **in;
    void          **out;
    uint64_t       *sent_bytes;  /* of payload, for each */
    size_t         *received_at; /* where each rank's message of the first exchange begins */
    uint8_t        *memory;      /* of the GPU: … */
    uint8_t        *sent, *received, *gathered;
    size_t          gather_bytes;
};

/* What a leg's items are in; made, if they were not together before. */
tacit_status_t tacit__fused_of(const tacit_leg_t *leg, tacit_fused_t **fused_out);

#endif
