// Rows of a table by id, and their gradient.
//
// Forward: a thread copies V channels of one id; an id outside the table gives NaN. Backward: a
// block is one warp that takes 32 channels of a run of ids, in order, and sums them in its own
// table (V, 32) in shared memory; the sums of the runs go to `partial` (runs, V, d).

#include "common.cuh"

template <typename T, int V>
__device__ __forceinline__ void embedding_forward(const uint32_t* ids, const float* table, T* y, long long count, int vocabulary,
                                                  int d) {
    const int groups = d / V;
    const long long total = count * groups;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < total; i += (long long)gridDim.x * blockDim.x) {
        const long long at = i / groups;
        const int c = (int)(i - at * groups) * V;
        const uint32_t id = ids[at];
        float v[V];
        if (id < (uint32_t)vocabulary) {
            load_v<V>(table + (size_t)id * d + c, v);
        } else {
#pragma unroll
            for (int k = 0; k < V; ++k) v[k] = __int_as_float(0x7fc00000);
        }
        store_v<V>(y + at * d + c, v);
    }
}

template <typename T>
__device__ __forceinline__ void embedding_backward(const uint32_t* ids, const T* dy, float* partial, long long count, int vocabulary,
                                                   int d, long long run, int frozen) {
    extern __shared__ float sums[]; // (V, 32)
    const int lane = threadIdx.x, c = blockIdx.x * 32 + lane;
    for (int i = lane; i < vocabulary * 32; i += 32) sums[i] = 0.0f;
    __syncwarp();
    const long long first = blockIdx.y * run, last = min(count, first + run);
    constexpr int AHEAD = 16;
    for (long long at = first; at < last; at += AHEAD) {
        float v[AHEAD];
        uint32_t id[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const bool there = at + k < last;
            id[k] = there ? ids[at + k] : 0xffffffffu;
            v[k] = there && c < d ? load(dy + (at + k) * d + c) : 0.0f;
        }
#pragma unroll
        for (int k = 0; k < AHEAD; ++k)
            if (id[k] < (uint32_t)vocabulary && (int)id[k] != frozen) sums[id[k] * 32 + lane] += v[k];
    }
    if (c < d)
        for (int row = 0; row < vocabulary; ++row) partial[((size_t)blockIdx.y * vocabulary + row) * d + c] = sums[row * 32 + lane];
}

// ones (count, width), width a multiple of 8: 1 at the id of a row, unless the id is frozen or
// outside the vocabulary; else 0.
extern "C" __global__ void one_hot(const uint32_t* ids, bf16* ones, int count, int vocabulary, int width, int frozen) {
    const int groups = width / 8;
    const int at = blockIdx.x * blockDim.x + threadIdx.x, row = at / groups, c = (at - row * groups) * 8;
    if (row >= count) return;
    const uint32_t id = ids[row];
    const bool there = id < (uint32_t)vocabulary && (int)id != frozen;
    float v[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] = there && (int)id == c + k ? 1.0f : 0.0f;
    store_v<8>(ones + (size_t)row * width + c, v);
}

EXPORT_WIDTHS(embedding_forward, LIST(const uint32_t* ids, const float* table, float* y, long long count, int vocabulary, int d),
              LIST(const uint32_t* ids, const float* table, bf16* y, long long count, int vocabulary, int d),
              (ids, table, y, count, vocabulary, d))
extern "C" __global__ void embedding_backward_f32(const uint32_t* ids, const float* dy, float* partial, long long count, int vocabulary,
                                                  int d, long long run, int frozen) {
    embedding_backward(ids, dy, partial, count, vocabulary, d, run, frozen);
}
extern "C" __global__ void embedding_backward_bf16(const uint32_t* ids, const bf16* dy, float* partial, long long count, int vocabulary,
                                                   int d, long long run, int frozen) {
    embedding_backward(ids, dy, partial, count, vocabulary, d, run, frozen);
}
