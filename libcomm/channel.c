/* SPDX-License-Identifier: Apache-2.0 */
/* Makes channels of POSIX shared memory, under names that nobody can guess and that are gone as soon as they have been used. */
#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "operation.h"

enum {
    PIECES = 16,          /* on their way: where ranks share a core, one has enough to do until the next one has its turn */
    MOST_BYTES = 1 << 17, /* of a piece: all of them stay in a cache */
    HEAD_BYTES = 128      /* before a payload: its frame */
};

/* One rank puts pieces in, the other one takes them out: how many so far. Each counter has a cache line of its own. */
struct tacit_channel {
    _Alignas(64) _Atomic uint32_t put;
    _Alignas(64) _Atomic uint32_t taken;
    size_t pitch; /* from piece to piece; from the beginning on as it is */
    _Alignas(64) uint8_t pieces[];
};
_Static_assert(sizeof(tacit_frame_t) <= HEAD_BYTES && HEAD_BYTES % 64 == 0, "a frame leaves its payload aligned");

static _Atomic uint64_t refused;

void tacit__channels_refuse(uint64_t ranks)
{
    atomic_store(&refused, ranks);
}

/* ---- Making ---- */

static size_t channel_bytes(const tacit_channels_t *channels)
{
    return sizeof(tacit_channel_t) + PIECES * (HEAD_BYTES + channels->piece_bytes);
}

/* Maps what is open, and closes it. 0, or what is wrong, as errno has it. */
static int map(int file, size_t bytes, tacit_channel_t **channel_out)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    int   error = memory == MAP_FAILED ? errno : 0;

    (void)close(file);
    *channel_out = error == 0 ? memory : NULL;
    return error;
}

static int make(tacit_channels_t *channels, int rank)
{
    uint64_t word[2];
    int      file, error;

    if ((atomic_load(&refused) >> rank % 64 & 1) != 0) {
        return EPERM;
    }
    if (getrandom(word, sizeof word, GRND_NONBLOCK) != (ssize_t)sizeof word) {
        return errno;
    }
    snprintf(channels->name, sizeof channels->name, "/tacit-%016" PRIx64 "%016" PRIx64, word[0], word[1]);
    file = shm_open(channels->name, O_RDWR | O_CREAT | O_EXCL, S_IRUSR | S_IWUSR);
    if (file < 0) {
        channels->name[0] = '\0';
        return errno;
    }
    error = posix_fallocate(file, 0, (off_t)channel_bytes(channels)); /* else a full memory would end the process later */
    if (error != 0) {
        (void)close(file);
        return error;
    }
    error = map(file, channel_bytes(channels), &channels->out);
    if (error == 0) {
        channels->out->pitch = HEAD_BYTES + channels->piece_bytes;
    }
    return error;
}

static int find(tacit_channels_t *channels, const char *name)
{
    const int file = shm_open(name, O_RDWR, 0);

    return file < 0 ? errno : map(file, channel_bytes(channels), &channels->in);
}

static void forget_name(tacit_channels_t *channels)
{
    if (channels->name[0] != '\0') {
        (void)shm_unlink(channels->name);
        channels->name[0] = '\0';
    }
}

static void unmap(tacit_channels_t *channels)
{
    if (channels->out != NULL) {
        (void)munmap(channels->out, channel_bytes(channels));
    }
    if (channels->in != NULL) {
        (void)munmap(channels->in, channel_bytes(channels));
    }
    channels->out = channels->in = NULL;
}

void tacit__channels_destroy(tacit_channels_t *channels)
{
    forget_name(channels);
    unmap(channels);
}

/* The first of these ranks that says why it has no channel; NULL: none does. */
static const char *find_reason(const int *ranks, int count, const char *lines)
{
    for (int i = 0; i < count; i++) {
        const char *line = lines + (size_t)ranks[i] * TACIT_LINE_BYTES;

        if (line[0] != '/' && line[0] != '\0') {
            return line;
        }
    }
    return NULL;
}

static void explain(const tacit_comm_t *comm, int error, char line[TACIT_LINE_BYTES])
{
    snprintf(line, TACIT_LINE_BYTES, "rank %d has none: %s", comm->rank, strerror(error));
}

/* The rank before this one, around the host. */
static int last_of(const tacit_comm_t *comm, const int *members, int here)
{
    int last = here - 1;

    while (members[(last + 1) % here] != comm->rank) {
        last = (last + 1) % here;
    }
    return members[last];
}

/* Each rank tells the name of what it has made, then whether it has found what the rank before it has made; or why not. */
static tacit_status_t join(tacit_comm_t *comm, char *lines, tacit_status_t status)
{
    const tacit_topology_t *topology = comm->topology;
    const int               host = topology->host_of[comm->rank], here = topology->begin[host + 1] - topology->begin[host];
    const int              *members = topology->members + topology->begin[host];
    tacit_channels_t       *channels = &comm->channels;
    char                    line[TACIT_LINE_BYTES] = "";
    const char             *reason;
    int                     error = status == TACIT_OK && here > 1 ? make(channels, comm->rank) : 0;

    if (error != 0) {
        explain(comm, error, line);
    } else {
        snprintf(line, sizeof line, "%s", channels->name);
    }
    TRY(tacit__comm_agree_and_tell(comm, "tacit_comm_create", "makes a channel", line, lines, status, 0));
    line[0] = '\0';
    reason = find_reason(members, here, lines);
    if (reason != NULL) {
        snprintf(line, sizeof line, "%s", reason);
    } else if (here > 1) {
        error = find(channels, lines + (size_t)last_of(comm, members, here) * TACIT_LINE_BYTES);
        if (error != 0) {
            explain(comm, error, line);
        }
    }
    TRY(tacit__comm_agree_and_tell(comm, "tacit_comm_create", "finds a channel", line, lines, TACIT_OK, 0));
    if (find_reason(members, here, lines) != NULL) {
        unmap(channels);
    }
    reason = find_reason(topology->members, comm->ranks, lines);
    if (comm->rank == 0) {
        tacit__log(TACIT_LOG_INFO, 0, "comm: ranks of a host share memory%s%s", reason != NULL ? ", but not all: " : "",
                   reason != NULL ? reason : "");
    }
out:
    forget_name(channels);
    return status;
}

tacit_status_t tacit__channels_create(tacit_comm_t *comm)
{
    const int      error = errno;
    char          *lines;
    tacit_status_t status;

    if (!tacit__topology_has_levels(comm->topology)) {
        return TACIT_OK;
    }
    comm->channels.piece_bytes = tacit__round_up(tacit__min(TACIT_NEAR_CHUNKS * comm->config.chunk_bytes, MOST_BYTES), 64);
    lines = tacit__alloc((size_t)comm->ranks, TACIT_LINE_BYTES);
    status = join(comm, lines,
                  lines != NULL ? TACIT_OK : tacit__fail(TACIT_ERR_MEMORY, "rank %d: no memory for a communicator", comm->rank));
    tacit__free(lines);
    errno = error; /* the caller's */
    return status;
}

/* ---- Pieces ---- */

static uint8_t *piece_at(const tacit_channel_t *channel, uint32_t number)
{
    return (uint8_t *)(uintptr_t)channel->pieces + number % PIECES * channel->pitch;
}

size_t tacit__channel_room(const tacit_channel_t *channel)
{
    return PIECES - (atomic_load_explicit(&channel->put, memory_order_relaxed) -
                     atomic_load_explicit(&channel->taken, memory_order_acquire));
}

void *tacit__channel_payload(tacit_channel_t *channel)
{
    return piece_at(channel, atomic_load_explicit(&channel->put, memory_order_relaxed)) + HEAD_BYTES;
}

void tacit__channel_put(tacit_channel_t *channel, const tacit_frame_t *frame)
{
    const uint32_t number = atomic_load_explicit(&channel->put, memory_order_relaxed);

    memcpy(piece_at(channel, number), frame, sizeof *frame);
    atomic_store_explicit(&channel->put, number + 1, memory_order_release);
}

bool tacit__channel_next(const tacit_channel_t *channel, tacit_frame_t *frame_out)
{
    const uint32_t number = atomic_load_explicit(&channel->taken, memory_order_relaxed);
    const uint8_t *piece = piece_at(channel, number);

    if (atomic_load_explicit(&channel->put, memory_order_acquire) == number) {
        return false;
    }
    memcpy(frame_out, piece, sizeof *frame_out);
    frame_out->payload = piece + HEAD_BYTES;
    return true;
}

void tacit__channel_drop(tacit_channel_t *channel)
{
    atomic_store_explicit(&channel->taken, atomic_load_explicit(&channel->taken, memory_order_relaxed) + 1, memory_order_release);
}
