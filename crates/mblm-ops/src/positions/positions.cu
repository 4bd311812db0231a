// Adds rows of a position table to every sequence: a thread takes V channels of one position, for
// all sequences.

#include "common.cuh"

template <typename T, int V>
__device__ __forceinline__ void add_positions(const T* x, const float* rows, T* y, int n, long long length) {
    const long long at = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * V;
    if (at >= length) return;
    float row[V];
    load_v<V>(rows + at, row);
    for (long long sequence = blockIdx.y; sequence < n; sequence += gridDim.y) {
        float v[V];
        load_v<V>(x + sequence * length + at, v);
#pragma unroll
        for (int i = 0; i < V; ++i) v[i] += row[i];
        store_v<V>(y + sequence * length + at, v);
    }
}

EXPORT_WIDTHS(add_positions, LIST(const float* x, const float* rows, float* y, int n, long long length),
              LIST(const bf16* x, const float* rows, bf16* y, int n, long long length), (x, rows, y, n, length))
