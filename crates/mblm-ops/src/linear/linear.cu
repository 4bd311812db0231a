// y += bias for every row of y (rows, d), which are `stride` apart.

#include "common.cuh"

template <typename T, int V>
__device__ __forceinline__ void add_bias(T* y, const float* bias, int rows, int d, int stride, int per_block) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (column >= d) return;
    float b[V];
    load_v<V>(bias + column, b);
    const int first = blockIdx.y * per_block, last = min(rows, first + per_block);
    for (int row = first; row < last; ++row) {
        T* at = y + (size_t)row * stride + column;
        float v[V];
        load_v<V>(at, v);
#pragma unroll
        for (int i = 0; i < V; ++i) v[i] += b[i];
        store_v<V>(at, v);
    }
}

EXPORT_WIDTHS(add_bias, LIST(float* y, const float* bias, int rows, int d, int stride, int per_block),
              LIST(bf16* y, const float* bias, int rows, int d, int stride, int per_block),
              (y, bias, rows, d, stride, per_block))
