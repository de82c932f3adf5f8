// Any processor: what the compiler's default target has.
#define TLA_ISA plain
#define TLA_VECTOR_BYTES 16
#define TLA_TILE_ROWS 1
#define TLA_TILE_COLUMNS 2
#define TLA_PANEL_ROWS 2
#define TLA_PANEL_COLUMNS 4
#include "row_kernels_impl.h"
#include "tile_kernels_impl.h"
