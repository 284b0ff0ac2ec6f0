/* SPDX-License-Identifier: Apache-2.0 */
/* What reports of all interposers have in common: how long the program runs, and where they go. */
#ifndef PRELOAD_DELIVER_H
#define PRELOAD_DELIVER_H

#include <stddef.h>

/* Since the program began. */
double preload_run_seconds(void);
/* All at once, so that other ranks' lines stay out of it. A file's reports follow one another, as a command's programs do. */
void preload_deliver(const char *text, size_t bytes);

#endif
