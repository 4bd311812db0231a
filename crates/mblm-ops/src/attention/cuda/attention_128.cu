// Attention on tensor cores for heads of 128 channels.

#define HEAD 128
#include "heads.cuh"
