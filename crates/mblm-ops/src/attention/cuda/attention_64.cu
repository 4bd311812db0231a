// Attention on tensor cores for heads of 64 channels.

#define HEAD 64
#include "heads.cuh"
