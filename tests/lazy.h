/* SPDX-License-Identifier: Apache-2.0 */
/* A transport that reads messages late, as MPI may, and says still later that they are gone. A message that has changed by then
   ends the process. */
#ifndef TACIT_TEST_LAZY_H
#define TACIT_TEST_LAZY_H

#include "tacit_transport.h"

/* Puts a lazy transport in front of one of the loop, which it destroys when it is destroyed. */
void lazy_transport(tacit_transport_t *transport);

#endif
