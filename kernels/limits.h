// The limits of src/base/limits.rs, for CUDA. A test compares the two files.
//
// CUDA kernels will lie in this folder, one file per operation, named op_format.cu; none is
// written yet.
#pragma once

#define PENSTOCK_LANES 16
#define PENSTOCK_PANEL_ROWS 16
#define PENSTOCK_SEGMENT 512
#define PENSTOCK_SUPER_BLOCK 256
#define PENSTOCK_SMALL_BLOCK 32
#define PENSTOCK_PAGE 16
#define PENSTOCK_ATTENTION_BLOCK 64
#define PENSTOCK_ATTENTION_SEGMENT 1024
