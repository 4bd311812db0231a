// Cross-entropy of logits (rows, V): one warp per row, gradient and loss in one pass over registers
// and caches.
//
// Rows of logits and of their gradient are `stride` and `d_stride` elements apart. The losses of a
// block's rows are added in order; a second kernel adds the sums of the blocks in double precision.

#include "common.cuh"

template <typename T>
__device__ __forceinline__ float row_logsumexp(const T* row, int vocabulary, int lane) {
    float largest = __int_as_float(0xff800000);
    bool nan = false;
    for (int j = lane; j < vocabulary; j += 32) {
        const float v = load(row + j);
        nan |= isnan(v);
        largest = fmaxf(largest, v);
    }
    largest = warp_max(largest);
    float sum = 0.0f;
    for (int j = lane; j < vocabulary; j += 32) sum += expf(load(row + j) - largest);
    sum = warp_sum(sum);
    return __any_sync(0xffffffffu, nan) ? __int_as_float(0x7fc00000) : largest + logf(sum);
}

// partial[block] = Σ weight · loss over the block's rows; also writes d_logits.
template <typename T>
__device__ __forceinline__ void cross_entropy(const T* logits, const uint32_t* targets, const float* weights, float scale, T* d_logits,
                                              double* partial, int rows, int vocabulary, int stride, int d_stride) {
    __shared__ float losses[32];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    const int row = blockIdx.x * warps + warp;
    float loss = 0.0f;
    if (row < rows) {
        const float weight = weights[row];
        const T* from = logits + (size_t)row * stride;
        T* to = d_logits + (size_t)row * d_stride;
        if (weight == 0.0f) {
            for (int j = lane; j < vocabulary; j += 32) store(to + j, 0.0f);
        } else {
            const int target = (int)targets[row];
            const float total = row_logsumexp(from, vocabulary, lane), factor = scale * weight;
            for (int j = lane; j < vocabulary; j += 32)
                store(to + j, factor * (expf(load(from + j) - total) - (j == target ? 1.0f : 0.0f)));
            // a target outside the vocabulary has no loss
            const bool inside = target >= 0 && target < vocabulary;
            loss = inside ? weight * (total - load(from + target)) : __int_as_float(0x7fc00000);
        }
    }
    if (lane == 0) losses[warp] = loss;
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0.0;
        for (int i = 0; i < warps; ++i) sum += losses[i];
        partial[blockIdx.x] = sum;
    }
}

template <typename T>
__device__ __forceinline__ void losses_of_rows(const T* logits, const uint32_t* targets, T* losses, int rows, int vocabulary, int stride) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    const int row = blockIdx.x * warps + warp;
    if (row >= rows) return;
    const T* from = logits + (size_t)row * stride;
    const float total = row_logsumexp(from, vocabulary, lane);
    const uint32_t target = targets[row];
    if (lane == 0) store(losses + row, target < (uint32_t)vocabulary ? total - load(from + target) : __int_as_float(0x7fc00000));
}

// total = Σ partial, by one block.
extern "C" __global__ void sum_of_blocks(const double* partial, double* total, int count) {
    __shared__ double sums[256];
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += 256) sum += partial[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        double all = 0.0;
        for (int i = 0; i < 256; ++i) all += sums[i];
        *total = all;
    }
}

#define EXPORT(T, S)                                                                                                           \
    extern "C" __global__ void cross_entropy_##S(const T* logits, const uint32_t* targets, const float* weights, float scale,  \
                                                 T* d_logits, double* partial, int rows, int vocabulary, int stride,           \
                                                 int d_stride) {                                                               \
        cross_entropy(logits, targets, weights, scale, d_logits, partial, rows, vocabulary, stride, d_stride);                 \
    }                                                                                                                          \
    extern "C" __global__ void losses_of_rows_##S(const T* logits, const uint32_t* targets, T* losses, int rows,               \
                                                  int vocabulary, int stride) {                                                \
        losses_of_rows(logits, targets, losses, rows, vocabulary, stride);                                                     \
    }
EXPORT(float, f32)
EXPORT(bf16, bf16)
