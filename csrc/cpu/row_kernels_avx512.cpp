// Compiled for AVX-512 (F, BW, DQ, VL): sixteen accumulators and eight rows in flight.
#define TLA_ISA avx512
#define TLA_VECTOR_BYTES 64
#define TLA_TILE_ROWS 4
#define TLA_TILE_COLUMNS 6
#define TLA_PANEL_ROWS 14
#define TLA_PANEL_COLUMNS 2
#include "row_kernels_impl.h"
#include "tile_kernels_impl.h"
