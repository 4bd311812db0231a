// Sums into buffers: of the rows of a matrix, and of two tensors.

#include "common.cuh"

// sum[j] += Σ_i x[i][j] for x (rows, d): one warp-wide strip of columns a block, its warps take rows in turns.
template <typename T>
__device__ __forceinline__ void add_columns(const T* x, float* sum, int rows, int d) {
    __shared__ float parts[32][33];
    const int lane = threadIdx.x, warp = threadIdx.y, column = blockIdx.x * 32 + lane;
    float v = 0.0f;
    if (column < d)
        for (int row = warp; row < rows; row += blockDim.y) v += load(x + (size_t)row * d + column);
    parts[warp][lane] = v;
    __syncthreads();
    if (warp == 0 && column < d) {
        float total = 0.0f;
        for (int i = 0; i < blockDim.y; ++i) total += parts[i][lane];
        sum[column] += total;
    }
}

// partial[y][j] = Σ x[i][j] over the rows i of block y.
template <typename T, int V>
__device__ __forceinline__ void column_parts(const T* x, float* partial, int rows, int d, int per_block) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (column >= d) return;
    float sum[V] = {};
    const int first = blockIdx.y * per_block, last = min(rows, first + per_block);
    for (int row = first; row < last; ++row) {
        float v[V];
        load_v<V>(x + (size_t)row * d + column, v);
#pragma unroll
        for (int i = 0; i < V; ++i) sum[i] += v[i];
    }
    store_v<V>(partial + (size_t)blockIdx.y * d + column, sum);
}

// sum[i] += x[i]
template <typename T>
__device__ __forceinline__ void add_to(const T* x, float* sum, long long count) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.x * blockDim.x)
        sum[i] += load(x + i);
}

extern "C" __global__ void add_columns_f32(const float* x, float* sum, int rows, int d) { add_columns(x, sum, rows, d); }
extern "C" __global__ void add_columns_bf16(const bf16* x, float* sum, int rows, int d) { add_columns(x, sum, rows, d); }
extern "C" __global__ void add_to_f32(const float* x, float* sum, long long count) { add_to(x, sum, count); }
extern "C" __global__ void add_to_bf16(const bf16* x, float* sum, long long count) { add_to(x, sum, count); }

EXPORT_WIDTHS(column_parts, LIST(const float* x, float* partial, int rows, int d, int per_block),
              LIST(const bf16* x, float* partial, int rows, int d, int per_block), (x, partial, rows, d, per_block))
