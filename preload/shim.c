/* SPDX-License-Identifier: Apache-2.0 */
/* What the interposer asks of one MPI: compiled for each that Tacit is built for, with its mpi.h. Functions are found by name,
   always as PMPI_NAME. */
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <tacit.h>

#include "calls.h"
#include "mpi_library.h"
#include "next.h"

#define FUNCTIONS(X)                                                                                                             \
    X(Allreduce)                                                                                                                 \
    X(Barrier)                                                                                                                   \
    X(Comm_call_errhandler)                                                                                                      \
    X(Comm_compare)                                                                                                              \
    X(Comm_create_keyval)                                                                                                        \
    X(Comm_get_attr)                                                                                                             \
    X(Comm_rank)                                                                                                                 \
    X(Comm_set_attr)                                                                                                             \
    X(Comm_size)                                                                                                                 \
    X(Comm_test_inter)                                                                                                           \
    X(Iallreduce)                                                                                                                \
    X(Test)                                                                                                                      \
    X(Type_get_envelope)                                                                                                         \
    X(Type_get_name)                                                                                                             \
    X(Type_size)

static struct {
#define FUNCTION(name) __typeof__(&PMPI_##name) name;
    FUNCTIONS(FUNCTION)
#undef FUNCTION
} mpi;

_Static_assert(sizeof(MPI_Comm) <= sizeof(uintptr_t) && sizeof(MPI_Request) <= sizeof(uintptr_t), "handles are carried as these");

/* ---- What differs ---- */

/* Predefined handles are addresses of variables. */
#ifdef OPEN_MPI
#define SIGN "ompi_mpi_comm_world"
#define HANDLE(kind, name, symbol) ((kind)preload_find(symbol))

static MPI_Comm (*comm_f2c)(MPI_Fint);
static MPI_Datatype (*type_f2c)(MPI_Fint);
static MPI_Op (*op_f2c)(MPI_Fint);

static bool find_fortran(void)
{
    *(void **)&comm_f2c = preload_find("PMPI_Comm_f2c");
    *(void **)&type_f2c = preload_find("PMPI_Type_f2c");
    *(void **)&op_f2c = preload_find("PMPI_Op_f2c");
    return comm_f2c != NULL && type_f2c != NULL && op_f2c != NULL;
}

/* One of these, as the compiler spells it. */
static const char *const in_place_names[] = {"mpi_fortran_in_place", "mpi_fortran_in_place_", "mpi_fortran_in_place__",
                                             "MPI_FORTRAN_IN_PLACE"};
enum { IN_PLACES = sizeof in_place_names / sizeof *in_place_names };
static const void *in_place[IN_PLACES];

static const void *in_place_of(size_t i)
{
    return in_place[i];
}

static bool has_bytes(MPI_Datatype type, int bytes)
{
    int found = 0;

    return type != NULL && mpi.Type_size(type, &found) == MPI_SUCCESS && found == bytes;
}

/* Those of MPICH and its kin are numbers, the same in C and in Fortran, of 32 bits: casts cut off what else a register holds. */
#else
#define SIGN "MPIR_Dup_fn" /* MPI_DUP_FN of their mpi.h */
#define HANDLE(kind, name, symbol) name
#define comm_f2c(handle) ((MPI_Comm)(handle))
#define type_f2c(handle) ((MPI_Datatype)(handle))
#define op_f2c(handle) ((MPI_Op)(handle))

static bool find_fortran(void)
{
    return true;
}

/* A variable with the address. Fortran's MPI_Init() sets it; of a program that begins in C, its first call from Fortran. */
static const char *const in_place_names[] = {"MPIR_F_MPI_IN_PLACE"};
enum { IN_PLACES = sizeof in_place_names / sizeof *in_place_names };
static const void *in_place[IN_PLACES];

static const void *in_place_of(size_t i)
{
    const void *const *variable = in_place[i];
    void (*set)(void) = NULL;

    if (variable != NULL && *variable == NULL) {
        *(void **)&set = preload_find("mpirinitf_");
    }
    if (set != NULL) {
        set();
    }
    return variable != NULL ? *variable : NULL;
}

/* They have it in them, where MPI would call an error what another of the kin knows. */
static bool has_bytes(MPI_Datatype type, int bytes)
{
    return (type >> 8 & 0xff) == bytes;
}
#endif

#ifndef MPI_REAL2
#define MPI_REAL2 MPI_DATATYPE_NULL
#endif
#ifndef MPIX_C_FLOAT16
#define MPIX_C_FLOAT16 MPI_DATATYPE_NULL
#endif

/* ---- Handles ---- */

static const char *const op_names[] = {
    "MPI_SUM",  "MPI_MAX",  "MPI_MIN", "MPI_PROD", "MPI_LAND",   "MPI_LOR",
    "MPI_LXOR", "MPI_BAND", "MPI_BOR", "MPI_BXOR", "MPI_MAXLOC", "MPI_MINLOC",
};
enum { OPS = sizeof op_names / sizeof *op_names, SUM = 0, MAX = 1 };
static MPI_Op ops[OPS];

enum { FLOATS = 5 };
static MPI_Datatype  floats[FLOATS];
static tacit_dtype_t float_dtypes[FLOATS];
static size_t        float_count;

static MPI_Comm null, world, self;
static struct {
    MPI_Datatype type;
    MPI_Op       op;
} reductions[PRELOAD_REDUCTIONS];

/* MPI_REAL is what the Fortran compiler's REAL is; some have none. */
static void find_floats(void)
{
    const MPI_Datatype no_type = HANDLE(MPI_Datatype, MPI_DATATYPE_NULL, "ompi_mpi_datatype_null");
    const struct {
        MPI_Datatype  type;
        tacit_dtype_t dtype;
    } list[FLOATS] = {
        {HANDLE(MPI_Datatype, MPI_FLOAT, "ompi_mpi_float"), TACIT_FLOAT32},
        {HANDLE(MPI_Datatype, MPI_REAL, "ompi_mpi_real"), TACIT_FLOAT32},
        {HANDLE(MPI_Datatype, MPI_REAL4, "ompi_mpi_real4"), TACIT_FLOAT32},
        {HANDLE(MPI_Datatype, MPI_REAL2, "ompi_mpi_real2"), TACIT_FLOAT16},
        {HANDLE(MPI_Datatype, MPIX_C_FLOAT16, "ompi_mpi_short_float"), TACIT_FLOAT16},
    };

    for (size_t i = 0; i < FLOATS; i++) {
        if (list[i].type != no_type && has_bytes(list[i].type, list[i].dtype == TACIT_FLOAT32 ? 4 : 2)) {
            floats[float_count] = list[i].type;
            float_dtypes[float_count++] = list[i].dtype;
        }
    }
}

static void find_handles(void)
{
    const MPI_Op list[OPS] = {
        HANDLE(MPI_Op, MPI_SUM, "ompi_mpi_op_sum"),       HANDLE(MPI_Op, MPI_MAX, "ompi_mpi_op_max"),
        HANDLE(MPI_Op, MPI_MIN, "ompi_mpi_op_min"),       HANDLE(MPI_Op, MPI_PROD, "ompi_mpi_op_prod"),
        HANDLE(MPI_Op, MPI_LAND, "ompi_mpi_op_land"),     HANDLE(MPI_Op, MPI_LOR, "ompi_mpi_op_lor"),
        HANDLE(MPI_Op, MPI_LXOR, "ompi_mpi_op_lxor"),     HANDLE(MPI_Op, MPI_BAND, "ompi_mpi_op_band"),
        HANDLE(MPI_Op, MPI_BOR, "ompi_mpi_op_bor"),       HANDLE(MPI_Op, MPI_BXOR, "ompi_mpi_op_bxor"),
        HANDLE(MPI_Op, MPI_MAXLOC, "ompi_mpi_op_maxloc"), HANDLE(MPI_Op, MPI_MINLOC, "ompi_mpi_op_minloc"),
    };

    memcpy(ops, list, sizeof ops);
    null = HANDLE(MPI_Comm, MPI_COMM_NULL, "ompi_mpi_comm_null");
    world = HANDLE(MPI_Comm, MPI_COMM_WORLD, "ompi_mpi_comm_world");
    self = HANDLE(MPI_Comm, MPI_COMM_SELF, "ompi_mpi_comm_self");
    reductions[PRELOAD_MAX_INT].type = HANDLE(MPI_Datatype, MPI_INT, "ompi_mpi_int");
    reductions[PRELOAD_MAX_INT].op = ops[MAX];
    reductions[PRELOAD_MAX_DOUBLE].type = HANDLE(MPI_Datatype, MPI_DOUBLE, "ompi_mpi_double");
    reductions[PRELOAD_MAX_DOUBLE].op = ops[MAX];
    reductions[PRELOAD_SUM_FLOAT].type = HANDLE(MPI_Datatype, MPI_FLOAT, "ompi_mpi_float");
    reductions[PRELOAD_SUM_FLOAT].op = ops[SUM];
    for (size_t i = 0; i < IN_PLACES; i++) {
        in_place[i] = preload_find(in_place_names[i]);
    }
    find_floats();
}

static bool find(void)
{
    bool complete = find_fortran();

#define FUNCTION(name)                                                                                                           \
    *(void **)&mpi.name = preload_find("PMPI_" #name);                                                                           \
    complete = complete && mpi.name != NULL;
    FUNCTIONS(FUNCTION)
#undef FUNCTION
    if (complete) {
        find_handles();
    }
    return complete;
}

/* ---- Calls ---- */

static uintptr_t comm_of(const preload_call_t *call)
{
    return (uintptr_t)(call->fortran ? comm_f2c((MPI_Fint)call->comm) : (MPI_Comm)call->comm);
}

static MPI_Datatype type_of(const preload_call_t *call)
{
    return call->fortran ? type_f2c((MPI_Fint)call->type) : (MPI_Datatype)call->type;
}

static MPI_Op op_of(const preload_call_t *call)
{
    return call->fortran ? op_f2c((MPI_Fint)call->op) : (MPI_Op)call->op;
}

static int dtype_of(const preload_call_t *call)
{
    const MPI_Datatype type = type_of(call);

    for (size_t i = 0; op_of(call) == ops[SUM] && comm_of(call) != (uintptr_t)null && comm_of(call) != 0 && i < float_count;
         i++) {
        if (type == floats[i]) {
            return (int)float_dtypes[i];
        }
    }
    return -1;
}

static bool is_in_place(const void *in, bool fortran)
{
    bool is = !fortran && in == MPI_IN_PLACE;

    for (size_t i = 0; fortran && i < IN_PLACES; i++) {
        is = is || (in != NULL && in == in_place_of(i));
    }
    return is;
}

static bool knows_in_place(bool fortran)
{
    bool knows = !fortran;

    for (size_t i = 0; !knows && i < IN_PLACES; i++) {
        knows = in_place_of(i) != NULL;
    }
    return knows;
}

/* Predefined types have their names in every MPI; whether one is predefined is the answer. */
static bool describe_call(const preload_call_t *call, preload_key_t *key)
{
    const MPI_Datatype type = type_of(call);
    char               name[MPI_MAX_OBJECT_NAME] = "";
    int                integers, addresses, types, combiner = MPI_COMBINER_DUP, length, bytes = 0;

    key->op = "user";
    for (size_t i = 0; i < OPS; i++) {
        key->op = op_of(call) == ops[i] ? op_names[i] : key->op;
    }
    mpi.Type_get_envelope(type, &integers, &addresses, &types, &combiner);
    mpi.Type_size(type, &bytes);
    key->type_bytes = bytes > 0 ? (size_t)bytes : 0;
    if (combiner != MPI_COMBINER_NAMED || mpi.Type_get_name(type, name, &length) != MPI_SUCCESS) {
        strcpy(key->type, "derived");
        return false;
    }
    snprintf(key->type, sizeof key->type, "%.31s", name);
    return true;
}

/* ---- Communicators ---- */

/* A duplicate is another communicator. */
static int do_not_copy(MPI_Comm comm, int key, void *extra, void *value, void *copy, int *flag)
{
    (void)comm, (void)key, (void)extra, (void)value, (void)copy;
    *flag = 0;
    return MPI_SUCCESS;
}

static int forget(MPI_Comm comm, int key, void *value, void *extra)
{
    (void)comm, (void)key, (void)extra;
    preload_forget(value);
    return MPI_SUCCESS;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool           has_keyval;
static int            keyval;

static void make_keyval(void)
{
    has_keyval = mpi.Comm_create_keyval(do_not_copy, forget, &keyval, NULL) == MPI_SUCCESS;
}

static bool get_group(uintptr_t comm, preload_group_t **group_out)
{
    preload_group_t *group = NULL;
    int              flag = 0;

    (void)pthread_once(&once, make_keyval);
    if (!has_keyval || mpi.Comm_get_attr((MPI_Comm)comm, keyval, &group, &flag) != MPI_SUCCESS) {
        return false;
    }
    *group_out = flag != 0 ? group : NULL;
    return true;
}

static bool set_group(uintptr_t comm, preload_group_t *group)
{
    return mpi.Comm_set_attr((MPI_Comm)comm, keyval, group) == MPI_SUCCESS;
}

static bool describe_comm(uintptr_t handle, preload_group_t *group)
{
    const MPI_Comm comm = (MPI_Comm)handle;
    int            inter = 1, relation = MPI_UNEQUAL;

    if (mpi.Comm_test_inter(comm, &inter) != MPI_SUCCESS || mpi.Comm_size(comm, &group->ranks) != MPI_SUCCESS ||
        (inter == 0 && mpi.Comm_compare(comm, world, &relation) != MPI_SUCCESS)) {
        return false;
    }
    group->inter = inter != 0;
    group->whole = relation == MPI_IDENT || relation == MPI_CONGRUENT;
    group->name = comm == world ? "world" : comm == self ? "self" : NULL;
    return true;
}

/* ---- What the interposer does itself ---- */

static uintptr_t get_world(void)
{
    return (uintptr_t)world;
}

static int rank_in(uintptr_t comm)
{
    int rank = 0;

    mpi.Comm_rank((MPI_Comm)comm, &rank);
    return rank;
}

static bool reduce(preload_reduction_t reduction, const void *in, void *out, int count, uintptr_t comm)
{
    return mpi.Allreduce(in, out, count, reductions[reduction].type, reductions[reduction].op, (MPI_Comm)comm) == MPI_SUCCESS;
}

static bool barrier(uintptr_t comm)
{
    return mpi.Barrier((MPI_Comm)comm) == MPI_SUCCESS;
}

static bool begin_reduce(preload_reduction_t reduction, const void *in, void *out, int count, uintptr_t comm,
                         uintptr_t *request_out)
{
    MPI_Request request;

    if (mpi.Iallreduce(in, out, count, reductions[reduction].type, reductions[reduction].op, (MPI_Comm)comm, &request) !=
        MPI_SUCCESS) {
        return false;
    }
    *request_out = (uintptr_t)request;
    return true;
}

static bool test(uintptr_t *request, bool *done_out)
{
    MPI_Request own = (MPI_Request)*request;
    int         done = 0;

    if (mpi.Test(&own, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) {
        return false;
    }
    *request = (uintptr_t)own;
    *done_out = done != 0;
    return true;
}

static int call_handler(uintptr_t comm)
{
    (void)mpi.Comm_call_errhandler((MPI_Comm)comm, MPI_ERR_OTHER);
    return MPI_ERR_OTHER;
}

const preload_mpi_t PRELOAD_SHIM = {
    .sign = SIGN,
    .library = PRELOAD_MPI_LIBRARY,
    .find = find,
    .comm_of = comm_of,
    .dtype_of = dtype_of,
    .is_in_place = is_in_place,
    .knows_in_place = knows_in_place,
    .describe_call = describe_call,
    .get_group = get_group,
    .set_group = set_group,
    .describe_comm = describe_comm,
    .world = get_world,
    .rank = rank_in,
    .reduce = reduce,
    .barrier = barrier,
    .begin_reduce = begin_reduce,
    .test = test,
    .raise = call_handler,
};
