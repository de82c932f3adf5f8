// Compiled for AVX-512 (F, BW, DQ, VL): sixteen accumulators and eight rows in flight.
#define TLA_ISA avx512
#define TLA_VECTOR_BYTES 64
#define TLA_TILE_ROWS 4
#define TLA_TILE_COLUMNS 6
#include "row_kernels_impl.h"
