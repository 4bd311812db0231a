// RMS norm of y · silu(z), forward and backward. A block has a row in registers, GROUP channels per
// thread: neighboring channels (V = GROUP), or channels that are the number of threads apart
// (V = 1). It takes rows in turns; the backward pass writes the block's sums for the gain to
// `partial` (blocks, d).

#include "common.cuh"

constexpr int GROUP = 8, MAX_THREADS = 1024;

// A thread's channels of a row of d channels; channels beyond d read as 0.
template <int V, typename T>
__device__ __forceinline__ void load_group(const T* row, int d, float (&v)[GROUP]) {
    if constexpr (V == GROUP) {
        if (threadIdx.x * GROUP < d) return load_v<GROUP>(row + threadIdx.x * GROUP, v);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) v[i] = 0.0f;
    } else {
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            const int at = threadIdx.x + i * blockDim.x;
            v[i] = at < d ? load(row + at) : 0.0f;
        }
    }
}

template <int V, typename T>
__device__ __forceinline__ void store_group(T* row, int d, const float (&v)[GROUP]) {
    if constexpr (V == GROUP) {
        if (threadIdx.x * GROUP < d) store_v<GROUP>(row + threadIdx.x * GROUP, v);
    } else {
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            const int at = threadIdx.x + i * blockDim.x;
            if (at < d) store(row + at, v[i]);
        }
    }
}

template <typename T, int V>
__device__ __forceinline__ void gated_norm_forward(const T* y, const T* z, long long z_sequence, long long z_row,
                                                   const float* gain, T* out, float* scale, int rows, int t, int d) {
    __shared__ float scratch[32];
    float w[GROUP];
    load_group<V>(gain, d, w);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        float u[GROUP], gate[GROUP], sum = 0.0f;
        load_group<V>(y + (size_t)row * d, d, u);
        load_group<V>(z + row / t * z_sequence + row % t * z_row, d, gate);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            u[i] *= gate[i] * sigmoid<T>(gate[i]);
            sum += u[i] * u[i];
        }
        const float f = 1.0f / sqrtf(block_sum(sum, scratch) / d + 1e-5f);
        if (threadIdx.x == 0) scale[row] = f;
#pragma unroll
        for (int i = 0; i < GROUP; ++i) u[i] *= f * w[i];
        store_group<V>(out + (size_t)row * d, d, u);
    }
}

template <typename T, int V>
__device__ __forceinline__ void gated_norm_backward(const T* y, const T* z, long long z_sequence, long long z_row,
                                                    const float* gain, const float* scale, const T* d_out, T* d_y, T* d_z,
                                                    float* partial, int rows, int t, int d) {
    __shared__ float scratch[32];
    float w[GROUP], d_gain[GROUP] = {};
    load_group<V>(gain, d, w);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const size_t at = (size_t)row * d;
        float in[GROUP], gate[GROUP], g[GROUP], sum = 0.0f;
        load_group<V>(y + at, d, in);
        load_group<V>(z + row / t * z_sequence + row % t * z_row, d, gate);
        load_group<V>(d_out + at, d, g);
        const float f = scale[row];
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            const float u = in[i] * gate[i] * sigmoid<T>(gate[i]);
            d_gain[i] += g[i] * u * f;
            g[i] *= w[i];
            sum += g[i] * u;
        }
        const float c = f * f * block_sum(sum, scratch) / d;
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            const float s = sigmoid<T>(gate[i]), silu = gate[i] * s;
            const float d_u = f * (g[i] - c * in[i] * silu);
            g[i] = d_u * silu;
            gate[i] = d_u * in[i] * (s + silu * (1.0f - s));
        }
        store_group<V>(d_y + at, d, g);
        store_group<V>(d_z + at, d, gate);
    }
    store_group<V>(partial + (size_t)blockIdx.x * d, d, d_gain);
}

#define FORWARD(T, V, NAME) \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) \
        NAME(const T* y, const T* z, long long z_sequence, long long z_row, const float* gain, T* out, float* scale, int rows, \
             int t, int d) { \
        gated_norm_forward<T, V>(y, z, z_sequence, z_row, gain, out, scale, rows, t, d); \
    }
#define BACKWARD(T, V, NAME) \
    extern "C" __global__ void __launch_bounds__(MAX_THREADS) \
        NAME(const T* y, const T* z, long long z_sequence, long long z_row, const float* gain, const float* scale, \
             const T* d_out, T* d_y, T* d_z, float* partial, int rows, int t, int d) { \
        gated_norm_backward<T, V>(y, z, z_sequence, z_row, gain, scale, d_out, d_y, d_z, partial, rows, t, d); \
    }
FORWARD(float, 1, gated_norm_forward1_f32)
FORWARD(float, 8, gated_norm_forward8_f32)
FORWARD(bf16, 1, gated_norm_forward1_bf16)
FORWARD(bf16, 8, gated_norm_forward8_bf16)
BACKWARD(float, 1, gated_norm_backward1_f32)
BACKWARD(float, 8, gated_norm_backward8_f32)
BACKWARD(bf16, 1, gated_norm_backward1_bf16)
BACKWARD(bf16, 8, gated_norm_backward8_bf16)
