/* SPDX-License-Identifier: Apache-2.0 */
/* Finds MPI among what is loaded, and its predefined handles. */
#include "mpi_library.h"

#include <pthread.h>
#include <stdio.h>
#include <tacit.h>

#include "next.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool           found;
static preload_mpi_t  mpi;

/* Predefined handles are addresses of variables with Open MPI; with others they are numbers, and the same in C and in Fortran. */
#ifdef OPEN_MPI
#define HANDLE(kind, name, symbol) ((kind)preload_find(symbol))

static const char kind_of_mpi[] = "Open MPI";

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

static bool is_this_kind(void)
{
    return preload_find("ompi_mpi_comm_world") != NULL;
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
#else
#define HANDLE(kind, name, symbol) name
#define comm_f2c(handle) ((MPI_Comm)(handle))
#define type_f2c(handle) ((MPI_Datatype)(handle))
#define op_f2c(handle) ((MPI_Op)(handle))

static const char kind_of_mpi[] = "MPICH or one of its kin";

static bool find_fortran(void)
{
    return true;
}

static bool is_this_kind(void)
{
    return preload_find("ompi_mpi_comm_world") == NULL;
}

/* A variable with the address, which is there when Fortran's MPI_Init() has been called. */
static const char *const in_place_names[] = {"MPIR_F_MPI_IN_PLACE"};
enum { IN_PLACES = sizeof in_place_names / sizeof *in_place_names };
static const void *in_place[IN_PLACES];

static const void *in_place_of(size_t i)
{
    return in_place[i] != NULL ? *(const void *const *)in_place[i] : NULL;
}
#endif

static const char *const op_names[] = {
    "MPI_SUM",  "MPI_MAX",  "MPI_MIN", "MPI_PROD", "MPI_LAND",   "MPI_LOR",
    "MPI_LXOR", "MPI_BAND", "MPI_BOR", "MPI_BXOR", "MPI_MAXLOC", "MPI_MINLOC",
};
enum { OPS = sizeof op_names / sizeof *op_names };
static MPI_Op ops[OPS];

enum { FLOATS = 4 };
static MPI_Datatype  floats[FLOATS];
static tacit_dtype_t float_dtypes[FLOATS];
static size_t        float_count;

/* MPI_REAL is what the Fortran compiler's REAL is; some have none. */
static void find_floats(void)
{
    const struct {
        MPI_Datatype  type;
        tacit_dtype_t dtype;
    } list[] = {
        {HANDLE(MPI_Datatype, MPI_FLOAT, "ompi_mpi_float"), TACIT_FLOAT32},
        {HANDLE(MPI_Datatype, MPI_REAL, "ompi_mpi_real"), TACIT_FLOAT32},
        {HANDLE(MPI_Datatype, MPI_REAL4, "ompi_mpi_real4"), TACIT_FLOAT32},
        {HANDLE(MPI_Datatype, MPI_REAL2, "ompi_mpi_real2"), TACIT_FLOAT16},
    };

    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        int bytes = 0;

        if (list[i].type != (MPI_Datatype)0 && list[i].type != mpi.type_null && mpi.Type_size(list[i].type, &bytes) == 0 &&
            bytes == (list[i].dtype == TACIT_FLOAT32 ? 4 : 2)) {
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

    for (size_t i = 0; i < OPS; i++) {
        ops[i] = list[i];
    }
    mpi.op_sum = ops[0];
    mpi.op_max = ops[1];
    mpi.op_min = ops[2];
    mpi.world = HANDLE(MPI_Comm, MPI_COMM_WORLD, "ompi_mpi_comm_world");
    mpi.self = HANDLE(MPI_Comm, MPI_COMM_SELF, "ompi_mpi_comm_self");
    mpi.type_float = HANDLE(MPI_Datatype, MPI_FLOAT, "ompi_mpi_float");
    mpi.type_double = HANDLE(MPI_Datatype, MPI_DOUBLE, "ompi_mpi_double");
    mpi.type_int = HANDLE(MPI_Datatype, MPI_INT, "ompi_mpi_int");
    mpi.type_null = HANDLE(MPI_Datatype, MPI_DATATYPE_NULL, "ompi_mpi_datatype_null");
    mpi.null = HANDLE(MPI_Comm, MPI_COMM_NULL, "ompi_mpi_comm_null");
    for (size_t i = 0; i < IN_PLACES; i++) {
        in_place[i] = preload_find(in_place_names[i]);
    }
    find_floats();
}

static void find(void)
{
    bool complete;

    if (!is_this_kind()) {
        fprintf(stderr, "tacit: this program's MPI is not %s, for which this Tacit was built: nothing is counted\n", kind_of_mpi);
        return;
    }
    complete = find_fortran();
#define PRELOAD_MPI_FUNCTION(name)                                                                                               \
    *(void **)&mpi.name = preload_find("PMPI_" #name);                                                                           \
    complete = complete && mpi.name != NULL;
    PRELOAD_MPI_FUNCTIONS(PRELOAD_MPI_FUNCTION)
#undef PRELOAD_MPI_FUNCTION
    if (!complete) {
        fprintf(stderr, "tacit: this program's MPI lacks functions of MPI 3.0: nothing is counted\n");
        return;
    }
    find_handles();
    found = true;
}

const preload_mpi_t *preload_mpi(void)
{
    pthread_once(&once, find);
    return found ? &mpi : NULL;
}

const char *preload_op_name(MPI_Op op)
{
    for (size_t i = 0; i < OPS; i++) {
        if (op == ops[i]) {
            return op_names[i];
        }
    }
    return "user";
}

int preload_dtype(MPI_Datatype type)
{
    for (size_t i = 0; i < float_count; i++) {
        if (type == floats[i]) {
            return (int)float_dtypes[i];
        }
    }
    return -1;
}

bool preload_is_in_place(const void *in, bool fortran)
{
    bool is = !fortran && in == MPI_IN_PLACE;

    for (size_t i = 0; fortran && i < IN_PLACES; i++) {
        is = is || (in != NULL && in == in_place_of(i));
    }
    return is;
}

bool preload_knows_in_place(bool fortran)
{
    bool knows = !fortran;

    for (size_t i = 0; i < IN_PLACES; i++) {
        knows = knows || in_place_of(i) != NULL;
    }
    return knows;
}

MPI_Comm preload_comm(uintptr_t handle, bool fortran)
{
    return fortran ? comm_f2c((MPI_Fint)handle) : (MPI_Comm)handle;
}

MPI_Datatype preload_type(uintptr_t handle, bool fortran)
{
    return fortran ? type_f2c((MPI_Fint)handle) : (MPI_Datatype)handle;
}

MPI_Op preload_op(uintptr_t handle, bool fortran)
{
    return fortran ? op_f2c((MPI_Fint)handle) : (MPI_Op)handle;
}
