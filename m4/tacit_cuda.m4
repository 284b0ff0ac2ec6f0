# SPDX-License-Identifier: Apache-2.0

# TACIT_CUDA
# Finds nvcc: in the folder that is named, on the PATH, in /usr/local/cuda. --with-cuda: it must be there; --without-cuda: not
# looked for; neither: used if found. Sets have_cuda, cuda_summary, NVCC, NVCCFLAGS, CUDA_CPPFLAGS, CUDA_LIBS. After LT_INIT: the
# module is a shared library.
AC_DEFUN([TACIT_CUDA], [
AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda@<:@=DIR@:>@], [build libtacit_cuda with DIR/bin/nvcc (default: if found)])],
            [], [with_cuda=look])
AC_ARG_VAR([NVCC], [CUDA's compiler])
AC_ARG_VAR([NVCCFLAGS], [its flags, which also name the architectures])
have_cuda=no
cuda_summary="no (--without-cuda)"
AS_IF([test "$with_cuda" != no && test "$enable_shared" != yes], [
    cuda_summary="no (--disable-shared)"
    AS_IF([test "$with_cuda" != look], [AC_MSG_ERROR([--with-cuda: libtacit_cuda can only be a shared library])])
], [test "$with_cuda" != no], [
    AS_CASE([$with_cuda],
            [yes|look], [AC_PATH_PROG([NVCC], [nvcc], [], [$PATH$PATH_SEPARATOR/usr/local/cuda/bin])],
            [AC_PATH_PROG([NVCC], [nvcc], [], [$with_cuda/bin])])
    TACIT_CUDA_FLAGS
    TACIT_CUDA_LINKS
    AS_IF([test "$have_cuda" = no], [
        AS_IF([test -n "$NVCC"], [cuda_summary="not found ($NVCC does not work: see config.log)"], [cuda_summary="not found"])
        AS_IF([test "$with_cuda" != look], [AC_MSG_ERROR([--with-cuda: no working nvcc; name its folder: --with-cuda=DIR])])
    ])
])
AS_IF([test "$have_cuda" = yes], [AC_DEFINE([HAVE_CUDA], [1], [Define to 1 if libtacit_cuda is built.])])
AC_SUBST([CUDA_CPPFLAGS])
AC_SUBST([CUDA_INCLUDES])
AC_SUBST([CUDA_LIBS])
])

# TACIT_CUDA_FLAGS
# Kernels for Ampere and Hopper; what is newer compiles the PTX when it loads them. Never fused: the same bits as on the CPU. The
# runtime is the static one: a program may bring another, or none.
AC_DEFUN([TACIT_CUDA_FLAGS], [
AS_IF([test -z "$NVCCFLAGS"], [
    NVCCFLAGS="-O3 -lineinfo -gencode arch=compute_80,code=sm_80"
    NVCCFLAGS="$NVCCFLAGS -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90"
])
cuda_folder=`dirname "$NVCC"`/..
CUDA_CPPFLAGS="-std=c++17 --fmad=false"
CUDA_INCLUDES="-isystem $cuda_folder/include"
CUDA_LIBS="-lcudart_static -lrt -ldl -lpthread"
for cuda_lib in lib64 lib targets/x86_64-linux/lib; do
    AS_IF([test -f "$cuda_folder/$cuda_lib/libcudart_static.a"],
          [CUDA_LIBS="-L`cd "$cuda_folder/$cuda_lib" && pwd` $CUDA_LIBS"; break])
done
])

# TACIT_CUDA_LINKS
# As the module is built: nvcc compiles, the C compiler links.
AC_DEFUN([TACIT_CUDA_LINKS], [
AC_MSG_CHECKING([whether a CUDA program links])
AS_IF([test -n "$NVCC"], [
    cat >conftest.cu <<'END'
#include <cuda_runtime.h>
__global__ void kernel(int *at) { *at = 1; }
extern "C" int run(int *at) { kernel<<<1, 1>>>(at); return (int)cudaGetLastError(); }
END
    cuda_saved_libs=$LIBS
    LIBS="conftest-cuda.o $CUDA_LIBS $LIBS"
    cuda_compile="$NVCC -O0 $CUDA_CPPFLAGS -Xcompiler -fno-exceptions,-fno-rtti,-fno-threadsafe-statics"
    AS_IF([AC_TRY_COMMAND([$cuda_compile -c -o conftest-cuda.o conftest.cu >&AS_MESSAGE_LOG_FD])],
          [AC_LINK_IFELSE([AC_LANG_PROGRAM([[int run(int *at);]], [[return run(0);]])], [have_cuda=yes])])
    LIBS=$cuda_saved_libs
    rm -f conftest.cu conftest-cuda.o
])
AC_MSG_RESULT([$have_cuda])
AS_IF([test "$have_cuda" = yes],
      [cuda_summary="`$NVCC --version | $SED -n 's/.*release \([[^,]]*\),.*/\1/p'` ($NVCC)"])
])

# TACIT_CUBLAS
# cuBLAS, which comes with CUDA and with which an example trains on a GPU; it links it where it lies. After TACIT_CUDA. Sets
# have_cublas, cublas_summary, CUBLAS_LIBS.
AC_DEFUN([TACIT_CUBLAS], [
have_cublas=no
cublas_summary="no (without CUDA)"
AS_IF([test "$have_cuda" = yes], [
    cublas_saved_cppflags=$CPPFLAGS
    cublas_saved_libs=$LIBS
    cublas_folder=`echo " $CUDA_LIBS" | $SED -n 's/^ -L\([[^ ]]*\).*/\1/p'`
    AS_IF([test -n "$cublas_folder"], [CUBLAS_LIBS="-L$cublas_folder -Wl,-rpath,$cublas_folder -lcublas"], [CUBLAS_LIBS=-lcublas])
    CPPFLAGS="$CPPFLAGS $CUDA_INCLUDES"
    LIBS="$CUBLAS_LIBS $LIBS"
    AC_MSG_CHECKING([whether a cuBLAS program links])
    AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <cublas_v2.h>]], [[return cublasDestroy(0) != 0;]])], [have_cublas=yes])
    AC_MSG_RESULT([$have_cublas])
    CPPFLAGS=$cublas_saved_cppflags
    LIBS=$cublas_saved_libs
    AS_IF([test "$have_cublas" = yes], [cublas_summary=yes], [cublas_summary="not found"])
])
AC_SUBST([CUBLAS_LIBS])
])
