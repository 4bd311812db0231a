// Attention on tensor cores for heads of 96 channels.

#define HEAD 96
#include "heads.cuh"
