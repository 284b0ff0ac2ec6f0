/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a mixture's layer (tacit_moe.h): who sends which rows to whom, and what becomes of them.

   A token is sent to a rank once, as a *row*, whatever number of experts it goes to there; with `lsh` tokens that go to the same
   experts of a rank, and are alike, are one row. A row has one *reply* an expert. Rows that a rank sends are numbered through:
   by receivers and, of one receiver, as their first tokens come; replies by rows and, of one row, by experts. Rows and replies
   that a rank receives likewise, by senders. */
#ifndef TACIT_MOE_INTERNAL_H
#define TACIT_MOE_INTERNAL_H

#include "lsh.h"
#include "tacit_moe.h"
#include "values.h"

/* In the order in which they are made. */
typedef enum {
    TACIT_MOE_DISPATCH,          /* rows to the experts … */
    TACIT_MOE_COMBINE,           /* … and replies from there */
    TACIT_MOE_COMBINE_BACKWARD,  /* gradients of replies to the experts … */
    TACIT_MOE_DISPATCH_BACKWARD, /* … and of rows from there */
    TACIT_MOE_EXCHANGES
} tacit_moe_exchange_t;

/* Their names. */
extern const char *const tacit__moe_exchanges[TACIT_MOE_EXCHANGES];

enum { TACIT_MOE_ROWS = 5, TACIT_MOE_HASHED = 64 };

/* What calls compute, where tokens are. */
typedef struct tacit_moe_work {
    tacit_status_t (*write_rows)(tacit_moe_pass_t *pass);                        /* tokens to what goes to other ranks … */
    tacit_status_t (*fill_batch)(tacit_moe_pass_t *pass);                        /* … and what has come to the batch */
    tacit_status_t (*gather_replies)(tacit_moe_pass_t *pass, const void *batch); /* from its order to that of messages */
    tacit_status_t (*combine)(tacit_moe_pass_t *pass, const float *weights, void *out);
    tacit_status_t (*write_sums)(tacit_moe_pass_t *pass, const void *gradients, float *weight_gradients);
    tacit_status_t (*scatter_sums)(tacit_moe_pass_t *pass, void *batch);
    tacit_status_t (*write_gradients)(tacit_moe_pass_t *pass, const void *batch);
    tacit_status_t (*spread)(tacit_moe_pass_t *pass, void *token_gradients);
} tacit_moe_work_t;

extern const tacit_moe_work_t tacit__moe_cpu, tacit__moe_gpu;

/* Memory of a layer's passes: what is sent and what comes, which the CPU encodes and decodes; and what is where tokens are. */
typedef enum { TACIT_MOE_MESSAGES, TACIT_MOE_TOKENS } tacit_moe_room_t;

struct tacit_moe {
    char                    *name;
    const tacit_moe_work_t  *work;
    struct tacit_moe_device *device; /* NULL: tokens are in the CPU's memory */
    int                      rank, ranks;
    tacit_moe_config_t       config;
    size_t                   row_bytes; /* of a token as it is in memory */
    size_t                   experts;   /* here */
    tacit_nonfinite_t        nonfinite;
    uint64_t                 spec_hash;
    tacit_values_t           values;   /* how rows travel; passes have copies with keys of their own */
    bool                     clusters; /* `lsh` … */
    bool                     residual; /* … and what tokens have beyond their rows is added to replies */
    tacit_lsh_t              lsh;
    tacit_rotations_t        rotations;
    uint32_t                *signs;
    float                   *scratch[TACIT_MOE_ROWS]; /* rows as float32 */
    float                   *hashing;
    float                   *hashed; /* room for so many tokens as float32 */
    uint32_t                *order;  /* room to sort a token's choices */
    tacit_comm_t            *comm;   /* NULL: it has none, and the next two neither */
    tacit_moe_t             *next;   /* of its layers */
    uint64_t                 passes; /* begun */
    tacit_moe_pass_t        *first;  /* those that live */

    tacit_moe_counters_t counters;
    double               beyond, norm; /* of tokens: squares of what they have beyond their rows, and theirs */
};

/* Rows that a rank sends, all receivers'. */
typedef struct tacit_moe_sent {
    size_t    copies, rows, replies;
    size_t   *first_row;    /* of a rank; ranks + 1 */
    uint32_t *first_reply;  /* of a row; rows + 1 */
    uint32_t *first_member; /* likewise */
    uint32_t *members;      /* copies: the tokens of each row, ascending */
    uint32_t *expert;       /* of a reply, among those of its rank */
    uint32_t *row;          /* of a reply */
    uint32_t *reply;        /* of a token's choice; TACIT_MOE_NOWHERE */
    uint32_t *words;        /* the memory of these */
    uint8_t  *heads;        /* one behind the other */
    size_t   *first_head;   /* of a rank, in bytes; ranks + 1 */
} tacit_moe_sent_t;

#define TACIT_MOE_NOWHERE UINT32_MAX

/* Rows that come from a rank. */
typedef struct tacit_moe_arrival {
    bool      met; /* its head has come */
    size_t    rows, replies;
    uint32_t *first_reply;   /* of a row, from 0; rows + 1 */
    uint32_t *expert;        /* of a reply; then its row of the batch */
    void     *memory;        /* of rows, as they come */
    size_t    row0, reply0;  /* the first of them among those of all ranks */
    bool      written, read; /* this rank's message to it, its message, in the exchange that has begun */
} tacit_moe_arrival_t;

struct tacit_moe_pass {
    tacit_moe_t         *moe;
    tacit_moe_pass_t    *before, *after; /* of those that live */
    tacit_moe_exchange_t exchange;       /* the last that has begun */
    bool                 open;           /* it has not ended */
    uint32_t             step;           /* number of the pass */
    tacit_values_t       values;         /* with the key of the exchange */
    const void          *tokens;
    size_t               count;
    tacit_moe_sent_t     sent;
    size_t               rows, replies; /* that have come */
    tacit_moe_batch_t    batch;
    void                *batch_rows;
    size_t              *batch_first;
    uint8_t             *outgoing[TACIT_MOE_EXCHANGES], *incoming[TACIT_MOE_EXCHANGES]; /* rows or replies, the own rank's too */
    uint8_t             *outgoing_there[TACIT_MOE_EXCHANGES], *incoming_there[TACIT_MOE_EXCHANGES]; /* the same, on a GPU */
    struct tacit_moe_numbers *numbers;                                                              /* on a GPU */
    float                    *weights;
    uint8_t                  *gradients; /* what goes past the experts */
    size_t                    choices;   /* that other ranks reply to */
    tacit_moe_counters_t      tally;     /* of this pass, until it is dispatched */
    double                    beyond, norm;
    tacit_moe_arrival_t       arrivals[]; /* of each rank */
};

/* ---- For those who move messages (moe_message.c, and exchanges over a communicator) ---- */

/* Checks what is given to make a layer, but not what its configuration says. */
tacit_status_t tacit__moe_config(const char *name, const tacit_moe_config_t *given, const void *moe_out,
                                 tacit_moe_config_t *config_out);
/* As tacit_moe_create_codec(), from a complete configuration. disabled: rows travel as they are, but the spec is checked. */
tacit_status_t tacit__moe_create(const char *name, const tacit_moe_config_t *moe_config, const tacit_config_t *config,
                                 bool disabled, int rank, int ranks, tacit_moe_t **moe_out);

/* Unset; NULL: there is none. put() accepts NULL. */
void *tacit__moe_get(tacit_moe_t *moe, tacit_moe_room_t room, size_t bytes);
void  tacit__moe_put(tacit_moe_t *moe, void *memory);

/* What goes to another rank in the exchange that has begun, and what comes from there. Values are pass->values. */
typedef struct tacit_moe_parcel {
    const uint8_t *head; /* in dispatch, to be sent */
    size_t         head_bytes;
    void          *rows;     /* to be sent, or to be filled */
    size_t         elements; /* of these */
    void          *decoded;  /* to be sent: where what receivers decode is to be written, which may be rows; NULL: nobody asks */
} tacit_moe_parcel_t;

/* Rows or replies, numbered through. */
typedef struct tacit_moe_extent {
    size_t first, count;
} tacit_moe_extent_t;

/* Those of this rank's tokens that go to `rank`, or those that have come from there. */
tacit_moe_extent_t tacit__moe_extent(const tacit_moe_pass_t *pass, int rank, bool home, bool replies);
tacit_moe_parcel_t tacit__moe_outgoing(const tacit_moe_pass_t *pass, int rank);
/* In dispatch only after meet(). */
tacit_moe_parcel_t tacit__moe_incoming(const tacit_moe_pass_t *pass, int rank);
/* Bytes of another rank's head, at most; and of elements. */
size_t tacit__moe_head_bound(const tacit_moe_t *moe);
size_t tacit__moe_elements_bound(const tacit_moe_t *moe);
/* In dispatch: checks the head that has come from a rank, and makes memory for its rows. */
tacit_status_t tacit__moe_meet(tacit_moe_pass_t *pass, int rank, const uint8_t *head, size_t bytes);
/* This many bytes have left for another rank; all that comes from another rank is there. end() wants that of each. */
void tacit__moe_written(tacit_moe_pass_t *pass, int rank, size_t bytes);
void tacit__moe_read(tacit_moe_pass_t *pass, int rank);
/* As if the exchange, which is not dispatch, had not begun. */
void tacit__moe_leave(tacit_moe_pass_t *pass);
/* TACIT_ERR_VALUE for what an encoder of the parcel to a rank has found. */
tacit_status_t tacit__moe_report(const tacit_moe_pass_t *pass, int rank, uint32_t faults);

/* The same for the mean of some tokens, of which this is the first. */
tacit_status_t tacit__moe_report_mean(const tacit_moe_pass_t *pass, uint32_t token, size_t members);

/* ---- Over a communicator (moe_comm.c) ---- */

/* What all ranks know of the elements that one sends another: tacit_alltoall_t, usual. */
size_t tacit__moe_usual(const tacit_moe_t *moe);
/* The communicator's list of layers loses one. */
void tacit__moe_unlink(tacit_moe_t *moe);

/* ---- Who sends what (moe_layout.c) ---- */

static inline size_t tacit__moe_first_expert(const tacit_moe_t *moe, int rank)
{
    return (size_t)((uint64_t)moe->config.experts * (uint64_t)rank / (uint64_t)moe->ranks);
}

static inline size_t tacit__moe_experts_of(const tacit_moe_t *moe, int rank)
{
    return tacit__moe_first_expert(moe, rank + 1) - tacit__moe_first_expert(moe, rank);
}

/* Checks the choices, and fills pass->sent, its heads too. */
tacit_status_t tacit__moe_lay_out(tacit_moe_pass_t *pass, const int32_t *experts);
void           tacit__moe_sent_release(tacit_moe_sent_t *sent);
/* Once all heads are there: where each row that has come is in the batch, and memory for it; nothing the second time. */
tacit_status_t tacit__moe_place(tacit_moe_pass_t *pass);

/* ---- Rows (moe_rows.c). In float32 one operation at a time, in the order of elements ---- */

/* sum = or += weight * row. */
void tacit__moe_add(float *sum, float weight, const float *row, size_t dimension, bool first);
/* row /= members. */
void tacit__moe_divide(float *row, float members, size_t dimension);
/* What a choice's output is: the reply, and what the token has beyond its centroid. A difference that is zero is +0, which
   changes no reply that it is subtracted from. */
void tacit__moe_output(const float *reply, const float *centroid, const float *token, size_t dimension, float *output);
/* A token's gradient from its row's, where tokens have something beyond their rows. All may be the same. */
void   tacit__moe_gradient(const float *reply, const float *sum, const float *own, float members, size_t dimension,
                           float *gradient);
double tacit__moe_dot(const float *a, const float *b, size_t dimension);
/* Square of the distance. */
double tacit__moe_distance(const float *a, const float *b, size_t dimension);

#endif
