/* SPDX-License-Identifier: Apache-2.0 */
/* The files in which rank 0 keeps what was measured, for the next program on the same machines: TACIT_CACHE. They are never
   needed: without them, or where they do not fit, it is measured again. */
#ifndef TACIT_RATES_FILE_H
#define TACIT_RATES_FILE_H

#include "comm.h"

/* Fills in what a file knows of the curves, if there is one that is right. */
void tacit__rates_load(const tacit_comm_t *comm, tacit_curves_t *curves);
void tacit__rates_save(const tacit_comm_t *comm, const tacit_curves_t *curves);

#endif
