// Attention on tensor cores for heads of 32 channels.

#define HEAD 32
#include "heads.cuh"
