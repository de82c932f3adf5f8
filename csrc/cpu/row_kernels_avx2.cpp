// Compiled for AVX2, FMA and F16C; a 64-byte vector is two registers, so a 2 x 2 tile fills half of the sixteen.
#define TLA_ISA avx2
#define TLA_VECTOR_BYTES 32
#define TLA_TILE_ROWS 2
#define TLA_TILE_COLUMNS 2
#define TLA_PANEL_ROWS 6
#define TLA_PANEL_COLUMNS 2
#include "row_kernels_impl.h"
#include "tile_kernels_impl.h"
