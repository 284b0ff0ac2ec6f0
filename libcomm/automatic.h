/* SPDX-License-Identifier: Apache-2.0 */
/* `auto:error=E`: which compressor a tensor gets, of those that keep within an error. */
#ifndef TACIT_AUTOMATIC_H
#define TACIT_AUTOMATIC_H

#include "comm.h"

/* The index-th spec that may stand for an automatic one, feedback included: the first is `none`, without feedback, the last has
   the fewest bytes. False past it. */
bool tacit__automatic_spec(const tacit_spec_t *automatic, tacit_dtype_t dtype, size_t index, char text[TACIT_SPEC_BYTES]);
/* That last one: for codecs, which know nothing of networks. */
void tacit__automatic_smallest(const tacit_spec_t *automatic, tacit_dtype_t dtype, char text[TACIT_SPEC_BYTES]);

/* Gives a slot, which has a codec, the one that is measured to be the fastest; what the slot remembers is kept. Where that is not
   compressed any more, it joins the next operation. Nothing where the spec is no automatic one with an error. `what` names the
   call in messages. Collective; after an error the slot is as it was. */
tacit_status_t tacit__automatic_choose(tacit_slot_t *slot, const char *what, const tacit_spec_t *automatic);
/* An operation on the slot has succeeded: if it took what was owed with it, the slot is dense from now on. */
void tacit__automatic_paid(tacit_slot_t *slot);

/* For loading: codecs as a slot has them whose state file names this compressor and this feedback; NULL where the slot has them
   already, or has no automatic spec, or a file can be of no such slot. What the second one is for, comm.h says of slots … */
tacit_status_t tacit__automatic_restore(const tacit_slot_t *slot, const char *compressor, const char *feedback,
                                        tacit_codec_t **codec_out, tacit_codec_t **dense_out);
/* … and the slot gets them. */
void tacit__automatic_adopt(tacit_slot_t *slot, tacit_codec_t *codec, tacit_codec_t *dense);

#endif
