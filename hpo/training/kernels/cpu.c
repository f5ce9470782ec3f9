/* Kernels for CPUs: convolution with pooling and SELU and its backward, dropout's masks, Adam. `cpu.py` calls them.

   Compiled once for each instruction set (hatch_build.py), with vectors of the compiler's own (GCC, Clang), and for
   float and double from one text. SOURCE is a digest of that text: what was compiled from another one is not used.
   Every address and size has been checked by the caller. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define STRING_(x) #x
#define STRING(x) STRING_(x)

#if defined(__AVX512F__)
#define BYTES 64 /* of a vector */
#define COLUMNS 2 /* vectors of output channels at once in the second convolution's forward, */
#define TALL 3 /* and rows of its positions: 18 sums of 32 registers */
#define ROWS 3 /* of its kernel at once in the weights' gradient: 18 sums */
#elif defined(__AVX2__)
#define BYTES 32
#define COLUMNS 4 /* 12 sums of 16 registers */
#define TALL 1
#define ROWS 1 /* 12 sums */
#else
#define BYTES 16
#define COLUMNS 4
#define TALL 1
#define ROWS 1
#endif

const char *hpo_source(void) { return STRING(SOURCE); }

/* splitmix64's finalizer (hpo/training/streams.py) */
static inline uint64_t mixed(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

#define REAL float
#define WHOLE int32_t
#define NAME(x) x##_f32
#include "cpu_real.h"
#undef REAL
#undef WHOLE
#undef NAME

#define REAL double
#define WHOLE int64_t
#define NAME(x) x##_f64
#define IS_DOUBLE
#include "cpu_real.h"
