// Attention on tensor cores for heads of 16 channels.

#define HEAD 16
#include "heads.cuh"
