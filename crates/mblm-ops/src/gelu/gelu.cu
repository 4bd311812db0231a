// GELU of x + bias, forward and backward: threads along the channels, blocks of rows along y.
//
// The backward pass writes the sums of each block of rows, for the bias, to `partial` (blocks, d).

#include "common.cuh"

__device__ __forceinline__ float cumulative(float v) { return 0.5f * (1.0f + erff(v * 0.70710678118654752f)); }

template <typename T, int V>
__device__ __forceinline__ void gelu_forward(const T* x, const float* bias, T* y, int rows, int d, int per_block) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (column >= d) return;
    float b[V] = {};
    if (bias) load_v<V>(bias + column, b);
    const int first = blockIdx.y * per_block, last = min(rows, first + per_block);
    for (int row = first; row < last; ++row) {
        const size_t at = (size_t)row * d + column;
        float v[V];
        load_v<V>(x + at, v);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            v[i] += b[i];
            v[i] *= cumulative(v[i]);
        }
        store_v<V>(y + at, v);
    }
}

template <typename T, int V>
__device__ __forceinline__ void gelu_backward(const T* x, const float* bias, const T* dy, T* dx, float* partial, int rows, int d,
                                              int per_block) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (column >= d) return;
    float b[V] = {}, sum[V] = {};
    if (bias) load_v<V>(bias + column, b);
    const int first = blockIdx.y * per_block, last = min(rows, first + per_block);
    for (int row = first; row < last; ++row) {
        const size_t at = (size_t)row * d + column;
        float v[V], g[V];
        load_v<V>(x + at, v);
        load_v<V>(dy + at, g);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            v[i] += b[i];
            const float density = 0.39894228040143268f * expf(-0.5f * v[i] * v[i]);
            // if the density is 0, the product is 0 too, even for infinite v
            g[i] *= cumulative(v[i]) + (density > 0.0f ? v[i] * density : 0.0f * density);
            sum[i] += g[i];
        }
        store_v<V>(dx + at, g);
    }
    if (partial) store_v<V>(partial + (size_t)blockIdx.y * d + column, sum);
}

EXPORT_WIDTHS(gelu_forward, LIST(const float* x, const float* bias, float* y, int rows, int d, int per_block),
              LIST(const bf16* x, const float* bias, bf16* y, int rows, int d, int per_block), (x, bias, y, rows, d, per_block))
EXPORT_WIDTHS(gelu_backward,
              LIST(const float* x, const float* bias, const float* dy, float* dx, float* partial, int rows, int d, int per_block),
              LIST(const bf16* x, const float* bias, const bf16* dy, bf16* dx, float* partial, int rows, int d, int per_block),
              (x, bias, dy, dx, partial, rows, d, per_block))
