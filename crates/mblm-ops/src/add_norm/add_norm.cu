// Residual addition, token shift and RMS norm. A block takes consecutive rows; a thread takes the
// same K groups of V channels of each row.
//
// Channels from `keep` on are shifted: their threads norm the row before. In the forward pass a
// thread carries that row in registers. In the backward pass the gradient of the shifted channels
// belongs to the row before, so it is written one row late; the last row of a sequence gets none.

#include "common.cuh"

template <typename T>
__device__ __forceinline__ float rounded(float v) {
    T narrow;
    store(&narrow, v);
    return load(&narrow);
}

template <typename T, int V, int K>
__device__ __forceinline__ void add_norm_forward(const T* x, const T* delta, const float* gain, const T* previous, T* residual,
                                                 T* normed, float* scale, int rows, int t, int d, int keep, int shared_previous,
                                                 int clamped, int per_block) {
    __shared__ float scratch[32];
    const int first = blockIdx.x * per_block, last = min(rows, first + per_block);
    float before[K][V], g[K][V];
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int c = (k * blockDim.x + threadIdx.x) * V;
        if (c >= d) continue;
        load_v<V>(gain + c, g[k]);
        if (c >= keep && first % t != 0) {
            const size_t at = (size_t)(first - 1) * d + c;
            load_v<V>(x + at, before[k]);
            if (delta) {
                float more[V];
                load_v<V>(delta + at, more);
#pragma unroll
                for (int i = 0; i < V; ++i) before[k][i] = rounded<T>(before[k][i] + more[i]);
            }
        }
    }
    for (int row = first; row < last; ++row) {
        float s[K][V], square = 0.0f;
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int c = (k * blockDim.x + threadIdx.x) * V;
            if (c >= d) continue;
            const size_t at = (size_t)row * d + c;
            float own[V];
            load_v<V>(x + at, own);
            if (delta) {
                float more[V];
                load_v<V>(delta + at, more);
#pragma unroll
                for (int i = 0; i < V; ++i) own[i] = rounded<T>(own[i] + more[i]);
                store_v<V>(residual + at, own);
            }
            if (c >= keep && row % t == 0) load_v<V>(previous + (shared_previous ? 0 : (size_t)(row / t) * d) + c, before[k]);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                s[k][i] = c >= keep ? before[k][i] : own[i];
                before[k][i] = own[i];
                square += s[k][i] * s[k][i];
            }
        }
        const float mean = block_sum(square, scratch) / d;
        // NaN stays NaN
        const float f = 1.0f / sqrtf(clamped ? (mean < 1e-16f ? 1e-16f : mean) : mean + 1e-5f);
        if (threadIdx.x == 0) scale[row] = f;
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int c = (k * blockDim.x + threadIdx.x) * V;
            if (c >= d) continue;
#pragma unroll
            for (int i = 0; i < V; ++i) s[k][i] *= f * g[k][i];
            store_v<V>(normed + (size_t)row * d + c, s[k]);
        }
    }
}

template <typename T, int V, int K>
__device__ __forceinline__ void add_norm_backward(const T* residual, const float* gain, const T* previous, const float* scale,
                                                  const T* d_normed, const T* d_residual, const T* d_last, T* d_x, T* d_previous,
                                                  float* partial, int rows, int t, int d, int keep, int shared_previous,
                                                  float clamped, int per_block) {
    __shared__ float scratch[32];
    const int first = blockIdx.x * per_block, last = min(rows, first + per_block);
    float g[K][V], d_gain[K][V] = {};
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int c = (k * blockDim.x + threadIdx.x) * V;
        if (c < d) load_v<V>(gain + c, g[k]);
    }
    for (int row = first; row < last; ++row) {
        const int sequence = row / t, position = row - sequence * t;
        const float f = scale[row];
        float s[K][V], dy[K][V], product = 0.0f;
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int c = (k * blockDim.x + threadIdx.x) * V;
            if (c >= d) continue;
            const T* source = residual + (size_t)row * d;
            if (c >= keep) source = position == 0 ? previous + (shared_previous ? 0 : (size_t)sequence * d) : source - d;
            load_v<V>(source + c, s[k]);
            load_v<V>(d_normed + (size_t)row * d + c, dy[k]);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                d_gain[k][i] += dy[k][i] * s[k][i] * f;
                dy[k][i] *= g[k][i];
                product += dy[k][i] * s[k][i];
            }
        }
        const float mean = block_sum(product, scratch) / d;
        const float factor = f >= clamped ? 0.0f : f * f * mean;
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int c = (k * blockDim.x + threadIdx.x) * V;
            if (c >= d) continue;
            const size_t at = (size_t)row * d + c;
            float ds[V];
#pragma unroll
            for (int i = 0; i < V; ++i) ds[i] = f * (dy[k][i] - factor * s[k][i]);
            const bool shifted = c >= keep;
            if (shifted && position == 0) {
                store_v<V>(d_previous + (size_t)sequence * d + c, ds);
            } else {
                const size_t to = shifted ? at - d : at;
                if (d_residual) {
                    float more[V];
                    load_v<V>(d_residual + to, more);
#pragma unroll
                    for (int i = 0; i < V; ++i) ds[i] += more[i];
                }
                if (!shifted && d_last && position == t - 1) {
                    float more[V];
                    load_v<V>(d_last + (size_t)sequence * d + c, more);
#pragma unroll
                    for (int i = 0; i < V; ++i) ds[i] += more[i];
                }
                store_v<V>(d_x + to, ds);
            }
            if (shifted && position == t - 1) {
                float end[V] = {};
                if (d_residual) load_v<V>(d_residual + at, end);
                if (d_last) {
                    float more[V];
                    load_v<V>(d_last + (size_t)sequence * d + c, more);
#pragma unroll
                    for (int i = 0; i < V; ++i) end[i] += more[i];
                }
                store_v<V>(d_x + at, end);
            }
            if (!shifted && position == 0 && d_previous) {
                const float none[V] = {};
                store_v<V>(d_previous + (size_t)sequence * d + c, none);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int c = (k * blockDim.x + threadIdx.x) * V;
        if (c < d) store_v<V>(partial + (size_t)blockIdx.x * d + c, d_gain[k]);
    }
}

#define EXPORT(T, S, V, K)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(512) add_norm_forward##V##x##K##_##S(                                                                  \
        const T* x, const T* delta, const float* gain, const T* previous, T* residual, T* normed, float* scale, int rows, int t, \
        int d, int keep, int shared_previous, int clamped, int per_block) {                                                      \
        add_norm_forward<T, V, K>(x, delta, gain, previous, residual, normed, scale, rows, t, d, keep, shared_previous, clamped, \
                                  per_block);                                                                                    \
    }                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(512) add_norm_backward##V##x##K##_##S(                                                                 \
        const T* residual, const float* gain, const T* previous, const float* scale, const T* d_normed, const T* d_residual,     \
        const T* d_last, T* d_x, T* d_previous, float* partial, int rows, int t, int d, int keep, int shared_previous,           \
        float clamped, int per_block) {                                                                                          \
        add_norm_backward<T, V, K>(residual, gain, previous, scale, d_normed, d_residual, d_last, d_x, d_previous, partial,      \
                                   rows, t, d, keep, shared_previous, clamped, per_block);                                       \
    }
#define EXPORT_TYPES(V, K) EXPORT(float, f32, V, K) EXPORT(bf16, bf16, V, K)
EXPORT_TYPES(8, 1)
EXPORT_TYPES(8, 4)
EXPORT_TYPES(1, 8)
