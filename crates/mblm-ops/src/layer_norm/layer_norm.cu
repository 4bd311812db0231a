// Layer norm: one block per row. The block reads the row several times, from the caches after the
// first time.
//
// The gradients of weight and bias are sums over rows, with their own kernel: threads along the
// channels, blocks of rows along y.

#include "common.cuh"

template <typename T, int V>
__device__ __forceinline__ void layer_norm_forward(const T* x, const float* weight, const float* bias, T* y, float* means,
                                                   float* factors, int d) {
    __shared__ float scratch[32];
    const T* row = x + (size_t)blockIdx.x * d;
    T* to = y + (size_t)blockIdx.x * d;
    float sum = 0.0f;
    for (int c = threadIdx.x * V; c < d; c += blockDim.x * V) {
        float v[V];
        load_v<V>(row + c, v);
#pragma unroll
        for (int i = 0; i < V; ++i) sum += v[i];
    }
    const float mean = block_sum(sum, scratch) / d;
    float square = 0.0f;
    for (int c = threadIdx.x * V; c < d; c += blockDim.x * V) {
        float v[V];
        load_v<V>(row + c, v);
#pragma unroll
        for (int i = 0; i < V; ++i) square += (v[i] - mean) * (v[i] - mean);
    }
    const float f = 1.0f / sqrtf(block_sum(square, scratch) / d + 1e-5f);
    if (threadIdx.x == 0) {
        means[blockIdx.x] = mean;
        factors[blockIdx.x] = f;
    }
    for (int c = threadIdx.x * V; c < d; c += blockDim.x * V) {
        float v[V], w[V], b[V];
        load_v<V>(row + c, v);
        load_v<V>(weight + c, w);
        load_v<V>(bias + c, b);
#pragma unroll
        for (int i = 0; i < V; ++i) v[i] = (v[i] - mean) * f * w[i] + b[i];
        store_v<V>(to + c, v);
    }
}

template <typename T, int V>
__device__ __forceinline__ void layer_norm_backward(const T* x, const float* weight, const float* means, const float* factors,
                                                    const T* dy, T* dx, int d) {
    __shared__ float scratch[32];
    const T *row = x + (size_t)blockIdx.x * d, *gradient = dy + (size_t)blockIdx.x * d;
    T* to = dx + (size_t)blockIdx.x * d;
    const float mean = means[blockIdx.x], f = factors[blockIdx.x];
    float plain = 0.0f, with_x = 0.0f;
    for (int c = threadIdx.x * V; c < d; c += blockDim.x * V) {
        float v[V], g[V], w[V];
        load_v<V>(row + c, v);
        load_v<V>(gradient + c, g);
        load_v<V>(weight + c, w);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            plain += w[i] * g[i];
            with_x += w[i] * g[i] * (v[i] - mean) * f;
        }
    }
    plain = block_sum(plain, scratch) / d;
    with_x = block_sum(with_x, scratch) / d;
    for (int c = threadIdx.x * V; c < d; c += blockDim.x * V) {
        float v[V], g[V], w[V];
        load_v<V>(row + c, v);
        load_v<V>(gradient + c, g);
        load_v<V>(weight + c, w);
#pragma unroll
        for (int i = 0; i < V; ++i) g[i] = f * (w[i] * g[i] - plain - (v[i] - mean) * f * with_x);
        store_v<V>(to + c, g);
    }
}

template <typename T, int V>
__device__ __forceinline__ void layer_norm_parameters(const T* x, const float* means, const float* factors, const T* dy,
                                                      float* partial_weight, float* partial_bias, int rows, int d, int per_block) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= d) return;
    float weight[V] = {}, bias[V] = {};
    const int first = blockIdx.y * per_block, last = min(rows, first + per_block);
    for (int row = first; row < last; ++row) {
        float v[V], g[V];
        load_v<V>(x + (size_t)row * d + c, v);
        load_v<V>(dy + (size_t)row * d + c, g);
        const float mean = means[row], f = factors[row];
#pragma unroll
        for (int i = 0; i < V; ++i) {
            weight[i] += g[i] * (v[i] - mean) * f;
            bias[i] += g[i];
        }
    }
    store_v<V>(partial_weight + (size_t)blockIdx.y * d + c, weight);
    store_v<V>(partial_bias + (size_t)blockIdx.y * d + c, bias);
}

EXPORT_WIDTHS(layer_norm_forward, LIST(const float* x, const float* w, const float* b, float* y, float* means, float* factors, int d),
              LIST(const bf16* x, const float* w, const float* b, bf16* y, float* means, float* factors, int d),
              (x, w, b, y, means, factors, d))
EXPORT_WIDTHS(layer_norm_backward,
              LIST(const float* x, const float* w, const float* means, const float* factors, const float* dy, float* dx, int d),
              LIST(const bf16* x, const float* w, const float* means, const float* factors, const bf16* dy, bf16* dx, int d),
              (x, w, means, factors, dy, dx, d))
EXPORT_WIDTHS(layer_norm_parameters,
              LIST(const float* x, const float* means, const float* factors, const float* dy, float* pw, float* pb, int rows, int d,
                   int per_block),
              LIST(const bf16* x, const float* means, const float* factors, const bf16* dy, float* pw, float* pb, int rows, int d,
                   int per_block),
              (x, means, factors, dy, pw, pb, rows, d, per_block))
